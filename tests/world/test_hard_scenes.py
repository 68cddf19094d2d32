"""Hard scenes: exact motion, captions, and the option to train on them, which changes nothing while it is off."""

from __future__ import annotations

import hashlib
from collections import Counter

import numpy as np
import pytest

from stepvideo.errors import StepVideoError
from stepvideo.stage import StageContext
from stepvideo.world import media, sidecar
from stepvideo.world.attributes import Attrs, is_held_out, rare_combinations, train_combinations
from stepvideo.world.config import RenderConfig
from stepvideo.world.events import BOUNCE, FALL, SEQUENCE, Event, Fall, Turn, all_events
from stepvideo.world.hard.captions import WORDINGS, event_caption
from stepvideo.world.hard.oracle import score_event
from stepvideo.world.hard.scenes import may_be_trained, objects, plan_event, render_event, trainable
from stepvideo.world.render import bounds, extent
from stepvideo.world.stage import choose, make, run, scene_of

LOOK = RenderConfig(size=64, frames=17)
RED = Attrs("red", "circle", None, "large", 1)


@pytest.mark.parametrize("shape", [(64, 64), (48, 96)])
def test_the_whole_object_stays_in_the_frame_and_touches_the_border_at_a_bounce_only(shape):
    look = RenderConfig(height=shape[0], width=shape[1], frames=17)
    box = bounds(look)
    for i, event in enumerate(all_events() * 6):
        attrs = objects()[i % 36]
        scene, motion = plan_event(attrs, event, i, look, allow_held_out=True)
        half = np.array(extent(attrs.shape, attrs.size))
        path = scene.bodies[0].path_t2
        assert (path >= half - 1e-9).all() and (path <= box - half + 1e-9).all()
        if event.kind == BOUNCE:
            corner = motion.position(np.array([motion.at]))[0]
            assert np.isclose(np.minimum(corner - half, box - corner - half).min(), 0, atol=1e-12)
            assert np.allclose(np.add(motion.before, motion.after), 0)


def test_positions_are_those_of_the_law():
    _, fall = plan_event(RED, Event(FALL, ("down",)), 1, LOOK)
    assert isinstance(fall, Fall)
    y = fall.position(np.arange(17.0))[:, 1]
    assert np.allclose(np.diff(y, 2), fall.g) and y[0] == fall.start[1] and np.isclose(y[1] - y[0], fall.g / 2)
    _, turn = plan_event(RED, Event(SEQUENCE, ("right", "up")), 1, LOOK)
    assert isinstance(turn, Turn)
    steps = np.diff(turn.position(np.array([0.0, 1.0, turn.at, 15.0, 16.0])), axis=0)
    assert np.allclose(steps[0], turn.before) and np.allclose(steps[-1], turn.after)
    assert steps[0][0] > 0 and steps[0][1] == 0 and steps[-1][1] < 0 and steps[-1][0] == 0


def test_nothing_held_out_is_shown_unless_it_is_allowed():
    pairs = trainable()
    assert len(pairs) == 380 and len({e.kind for _, e in pairs}) == 3
    bad = next((a, e) for a in objects() for e in all_events() if not may_be_trained(a, e))
    with pytest.raises(StepVideoError, match="held-out"):
        render_event(*bad, 0, LOOK)
    assert render_event(*bad, 0, LOOK, allow_held_out=True).shape == (17, 64, 64, 3)


def test_impossible_scenes_are_refused():
    with pytest.raises(ValueError, match="give one of"):
        Event(SEQUENCE, ("left", "right"))
    with pytest.raises(StepVideoError, match="without a direction"):
        plan_event(train_combinations()[0], all_events()[0], 0, LOOK)
    with pytest.raises(StepVideoError, match="9 or more"):
        plan_event(RED, all_events()[0], 0, RenderConfig(frames=5))
    with pytest.raises(ValueError, match="9 to 25 frames"):
        RenderConfig(hard_fraction=0.1, frames=33)


def test_captions_say_the_order_and_the_known_wording_has_known_words_only():
    rng = np.random.default_rng(0)
    event = Event(SEQUENCE, ("right", "up"))
    zh, en = (event_caption(RED, event, lang, rng) for lang in ("zh", "en"))
    assert zh.index("右") < zh.index("上") and en.index("right") < en.index("up")
    said = {event_caption(RED, e, "zh", rng, wording="known") for e in all_events() for _ in range(4)}
    assert not set("".join(said)) - set("一个红色的大圆形向左右上下移动，慢地快速")
    with pytest.raises(ValueError, match=WORDINGS[0]):
        event_caption(RED, event, "zh", rng, wording="other")


def _digest(cfg, folder):
    for i in range(cfg.n_clips):
        make(cfg, i, 0, folder)
    for i in range(round(cfg.n_clips * cfg.still_fraction)):
        make(cfg, i, 1, folder)
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    return hashlib.sha256(b"".join(hashlib.sha256(p.read_bytes()).digest() for p in files)).hexdigest()[:16]


def test_the_options_are_off_by_default_and_change_no_other_file(tmp_path):
    plain = RenderConfig(n_clips=6, size=48, still_fraction=0.5, two_object_fraction=0.5, seed=4)
    more = RenderConfig(n_clips=6, size=48, still_fraction=0.5, two_object_fraction=0.5, seed=4, hard_fraction=0.5)
    for name, cfg in (("plain", plain), ("more", more)):
        for folder in ("out", "work"):
            (tmp_path / name / folder).mkdir(parents=True)
        run(StageContext(cfg, {}, tmp_path / name / "out", tmp_path / name / "work"))
    records = {name: {r["file"]: r for r in sidecar.read(tmp_path / name / "out")} for name in ("plain", "more")}
    extra = set(records["more"]) - set(records["plain"])
    assert len(records["plain"]) == 9 and extra == {f"videos/hard-{i:06d}.mp4" for i in range(3)}
    for file, record in records["plain"].items():
        assert records["more"][file] == record and "event" not in record["shots"][0]
        same = [(tmp_path / name / "out" / file).read_bytes() for name in ("plain", "more")]
        assert same[0] == same[1]
    for file in extra:
        (shot,) = records["more"][file]["shots"]
        event, attrs = Event.from_dict(shot["event"]), Attrs.from_dict(shot["attributes"][0])
        assert attrs.direction is None and may_be_trained(attrs, event)
        assert score_event(media.decode_mp4(tmp_path / "more" / "out" / file), attrs, event)["event"]
        assert shot["captions"]["short"]["zh"] and shot["captions"]["dense"]["en"]


def test_every_trainable_pair_comes_once_a_round():
    cfg = RenderConfig(hard_fraction=1.0, size=48)
    seen = Counter()
    for i in range(len(trainable())):
        scene, _ = scene_of(cfg, i, 2)
        seen[scene.attrs[0], scene.event] += 1
    assert set(seen) == set(trainable()) and set(seen.values()) == {1}


def test_rare_combinations_are_spread_and_seen_as_seldom_as_asked():
    rare = rare_combinations()
    assert len(rare) == 26 and set(rare) <= set(train_combinations()) and not any(map(is_held_out, rare))
    assert all(7 <= sum(a.shape == s for a in rare) <= 11 for s in ("circle", "square", "triangle"))
    cfg = RenderConfig(rare_rate=0.1, seed=2)
    usual = RenderConfig(seed=2)
    n, hits, same = 4 * 260, 0, 0
    for i in range(n):
        chosen = choose(cfg, i)[0]
        hits += chosen in rare
        same += chosen == choose(usual, i)[0]
    assert 3 <= hits <= 22 and same >= 0.9 * n  # 104 without the option; about 10 expected
