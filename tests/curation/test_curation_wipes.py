"""Fronts that cross tiny pictures are found in every direction; things that cross them, and pans, are none."""

from __future__ import annotations

import numpy as np
import pytest

from stepvideo.curation.config import SegmentConfig
from stepvideo.curation.strip import HEIGHT, WIDTH, Strip
from stepvideo.curation.wipes import wipes

N, START = 60, 20


def scene(seed: int, slowness: int = 2) -> np.ndarray:
    """Blocks of colour that pan a pixel every `slowness` frames, [N, 18, 32, 3]."""
    blocks = np.random.default_rng(seed).integers(0, 256, (6, 16, 3)).repeat(3, 0).repeat(4, 1)
    return np.stack([blocks[:, i // slowness : i // slowness + WIDTH] for i in range(N)]).astype(float)


def found(pictures: np.ndarray) -> list[tuple[int, int]]:
    return wipes(Strip(list(pictures.round().astype(np.uint8))), SegmentConfig())


def passed(length: int, across: int, backwards: bool) -> np.ndarray:
    """How much of every pixel a front has uncovered that sets out at START and takes `length` frames."""
    place = (np.arange(across) + 0.5) / across
    gone = (np.arange(N) - START + 1)[:, None] / length
    return ((place[::-1] if backwards else place) < gone).astype(float)


@pytest.mark.parametrize("length", [7, 12, 21, 30])
@pytest.mark.parametrize("backwards", [False, True])
@pytest.mark.parametrize("upright", [False, True])
def test_a_front_is_found_from_every_side(length: int, backwards: bool, upright: bool) -> None:
    w = passed(length, WIDTH if upright else HEIGHT, backwards)
    w = w[:, None, :, None] if upright else w[:, :, None, None]
    ((start, end),) = found(scene(1) * (1 - w) + scene(2) * w)
    assert abs(start - START) <= 2 and abs(end - (START + length)) <= 2


def test_neither_a_shot_nor_a_cut_nor_a_dissolve_has_a_front() -> None:
    a, b = scene(1), scene(2)
    w = ((np.arange(N) - START) / 16).clip(0, 1)[:, None, None, None]
    assert found(a) == []
    assert found(np.concatenate([a[:START], b[START:]])) == []
    assert found(a * (1 - w) + b * w) == []


def test_a_thing_that_crosses_the_picture_leaves_the_scene_behind_it() -> None:
    w = passed(20, WIDTH, False) - passed(20, WIDTH, False)[np.maximum(np.arange(N) - 8, 0)]
    assert found(scene(1, N) * (1 - w[:, None, :, None]) + 255 * w[:, None, :, None]) == []


def test_films_of_a_few_frames() -> None:
    for n in (1, 2, 7):
        assert found(scene(1)[:n]) == []
