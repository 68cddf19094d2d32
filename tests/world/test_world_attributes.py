"""The grid and what is held out of it."""

from __future__ import annotations

import hashlib
import itertools
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stepvideo.errors import StepVideoError
from stepvideo.world.attributes import (
    GRID,
    NAMES,
    Attrs,
    all_combinations,
    held_out_combinations,
    is_held_out,
    train_combinations,
)
from stepvideo.world.config import RenderConfig
from stepvideo.world.render import render
from stepvideo.world.stage import choose, scene_of


def test_held_out_set_is_pinned():
    names = "\n".join(map(str, held_out_combinations()))
    assert len(held_out_combinations()) == 28 and len(all_combinations()) == 288
    # Changing the set invalidates every trained weight: shipped ones must then be trained anew.
    assert hashlib.sha256(names.encode()).hexdigest()[:16] == "69f8be3c9f243024"


def test_train_and_held_out_partition_the_grid():
    assert set(train_combinations()) | set(held_out_combinations()) == set(all_combinations())
    assert not set(train_combinations()) & set(held_out_combinations())


def test_held_out_is_balanced_over_values_and_every_pair_stays_common():
    for name, values in GRID.items():
        n = Counter(getattr(a, name) for a in held_out_combinations())
        assert max(n.values()) - min(n[v] for v in values) <= 2, (name, n)
    for a, b in itertools.combinations(NAMES, 2):
        seen = Counter((getattr(x, a), getattr(x, b)) for x in train_combinations())
        total = Counter((getattr(x, a), getattr(x, b)) for x in all_combinations())
        assert all(seen[k] >= 0.75 * total[k] for k in total)


def test_every_still_image_shows_something_that_training_clips_show():
    stills = {a.still() for a in train_combinations()}
    assert {a.still() for a in held_out_combinations()} <= stills


def test_bad_value_is_named():
    with pytest.raises(ValueError, match="colour is 'pink'"):
        Attrs("pink", "circle", "left", "small", 1)


@pytest.mark.parametrize("attrs", held_out_combinations())
def test_renderer_refuses_every_held_out_combination(attrs):
    cfg = RenderConfig(size=48, frames=2)
    with pytest.raises(StepVideoError, match="held out"):
        render(attrs, 0, cfg)
    assert render(attrs, 0, cfg, allow_held_out=True).shape == (2, 48, 48, 3)


def test_renderer_refuses_a_scene_that_contains_a_held_out_object():
    held = next(a for a in held_out_combinations() if a.count == 1)
    other = next(a for a in train_combinations() if a.count == 1 and a.colour != held.colour)
    with pytest.raises(StepVideoError, match="held out"):
        render([other, held], 0, RenderConfig(size=48, frames=2))


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 2**31), st.integers(0, 10**6), st.floats(0, 1), st.integers(0, 1))
def test_the_stage_never_chooses_a_held_out_combination(seed, index, share, stream):
    cfg = RenderConfig(seed=seed, frames=5, two_object_fraction=share)
    for attempt in range(3):
        group = choose(cfg, index, stream, attempt)
        assert not any(is_held_out(a) for a in group)
        if len(group) == 2:
            assert group[0].colour != group[1].colour and [a.count for a in group] == [1, 1]
    scene, _ = scene_of(cfg, index, stream)
    assert not any(is_held_out(a) for a in scene.attrs)


def test_the_stage_sees_each_training_combination_equally_often():
    cfg = RenderConfig()
    n = Counter(choose(cfg, i)[0] for i in range(2 * len(train_combinations())))
    assert set(n) == set(train_combinations()) and set(n.values()) == {2}


def test_still_has_no_direction_and_is_never_held_out():
    for a in held_out_combinations():
        assert a.still() == replace(a, direction=None) and not is_held_out(a.still())
