"""Cuts where they are, none where they are not, and what is dropped around them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from known_videos import montage, shot

from stepvideo.curation.config import SegmentConfig
from stepvideo.curation.segment import CutDetector, shots, trimmed
from stepvideo.world.config import RenderConfig
from stepvideo.world.render import draw
from stepvideo.world.stage import scene_of


def detect(video: np.ndarray, config: SegmentConfig | None = None) -> CutDetector:
    detector = CutDetector(config or SegmentConfig())
    for frame in video:
        detector.add(frame[..., ::-1])
    return detector.finish()


def cuts_of(video: np.ndarray) -> list[int]:
    return detect(video).cuts


@pytest.mark.parametrize("lengths", [[30, 25, 40], [20, 20, 20, 20], [17, 60, 17]])
@pytest.mark.parametrize("size", [(64, 64), (180, 320)])
def test_hard_cuts_are_found_on_the_frame(lengths: list[int], size: tuple[int, int]) -> None:
    assert cuts_of(montage(lengths, *size)) == np.cumsum(lengths)[:-1].tolist()


@pytest.mark.parametrize("seed", range(4))
def test_a_single_shot_has_no_cut(seed: int) -> None:
    assert cuts_of(shot(seed, 60)) == []


def test_hard_cuts_are_those_of_pyscenedetect(tmp_path) -> None:
    """Where its defaults are enough: bright, sharp, well apart."""
    from known_videos import encode
    from scenedetect import AdaptiveDetector
    from scenedetect import detect as reference

    video = montage([31, 26, 44], 240, 426)
    scenes = reference(str(encode(tmp_path / "a.mp4", video)), AdaptiveDetector())
    assert cuts_of(video) == [start.frame_num for start, _ in scenes][1:] == [31, 57]


@pytest.mark.parametrize("level", [100, 255])
@pytest.mark.parametrize("length", [1, 2, 4])
def test_a_flash_is_no_cut(level: int, length: int) -> None:
    video = shot(3, 70, height=144, width=256).astype(int)
    video[30 : 30 + length] += level
    assert cuts_of(np.clip(video, 0, 255).astype(np.uint8)) == []


def test_what_differs_before_and_after_a_flash_is_a_cut() -> None:
    video = montage([30, 30])
    video[29] = 255
    assert set(cuts_of(video)) <= {29, 30} and cuts_of(video)


@pytest.mark.parametrize("seed", range(3))
def test_dark_and_noisy_scenes_are_cut_too(seed: int) -> None:
    noise = np.random.default_rng(seed).normal(0, 5, (60, 144, 256, 3))
    video = np.clip(montage([30, 30], 144, 256) * 0.15 + noise, 0, 255).astype(np.uint8)
    assert cuts_of(video) == [30]


def still_pair(frames: int) -> tuple[np.ndarray, np.ndarray]:
    """Two shots that barely move."""
    return tuple(np.repeat(shot(seed, 1, height=144, width=256), frames, 0).astype(float) for seed in (1, 2))  # type: ignore


@pytest.mark.parametrize("length", [6, 10, 16, 24, 30])
@pytest.mark.parametrize("wipe", [False, True])
def test_a_dissolve_is_found_and_is_of_no_clip(length: int, wipe: bool) -> None:
    a, b = still_pair(120)
    w = ((np.arange(120) - 50) / length).clip(0, 1)[:, None, None, None]
    if wipe:
        w = (np.arange(256)[:, None] < w * 256).astype(float)
    detector = detect((a * (1 - w) + b * w).astype(np.uint8))
    (found,) = detector.transitions
    assert found.kind in ("wipe", "dissolve") if wipe else found.kind == "dissolve"
    assert abs(found.start - 50) <= 3 and abs(found.end - (50 + length)) <= 3
    assert detector.cuts == []
    assert detector.shots() == [(0, found.start), (found.end, 120)]


@pytest.mark.parametrize("colour", [0, 255])
@pytest.mark.parametrize(("hold", "kinds"), [(4, ["fade"]), (30, ["fade out", "blank", "fade in"])])
def test_fades(colour: int, hold: int, kinds: list[str]) -> None:
    a, b = still_pair(40)
    w = np.linspace(0, 1, 16)[1:, None, None, None]
    black = np.full((hold, 144, 256, 3), float(colour))
    parts = [a, a[:15] * (1 - w) + colour * w, black, b[:15] * w + colour * (1 - w), b]
    detector = detect(np.concatenate(parts).astype(np.uint8))
    assert [t.kind for t in detector.transitions] == kinds
    assert abs(detector.transitions[0].start - 40) <= 2 and abs(detector.transitions[-1].end - (70 + hold)) <= 2
    assert len(detector.shots()) == 2


def test_a_camera_that_pans_and_a_light_that_changes_are_no_transitions() -> None:
    blocks = np.random.default_rng(5).integers(0, 256, (6, 67, 3), np.uint8)
    wide = blocks.repeat(24, 0).repeat(24, 1)
    x = np.concatenate([np.zeros(30, int), np.arange(0, 600, 15), np.full(30, 600)])
    assert detect(np.stack([wide[:, i : i + 256] for i in x])).transitions == []
    a, _ = still_pair(90)
    light = np.interp(np.arange(90), [30, 50], [1, 0.4])[:, None, None, None]
    assert detect((a * light).astype(np.uint8)).transitions == []


PLAIN = RenderConfig(size=64, frames=45, backgrounds=["plain", "gradient"])


@pytest.mark.parametrize("index", [50, 57, 83, 98, 192, 281, 284, 305, 350, 382])
def test_flat_shapes_that_move_over_a_plain_ground_are_no_dissolve(index: int) -> None:
    """The first ten of a thousand that a straight path through picture space alone takes for one."""
    config = replace(PLAIN, frames=25)
    assert detect(draw(scene_of(config, index)[0], config)).transitions == []


def test_flat_shapes_that_dissolve_into_others_are_one() -> None:
    """The mirror of the test above: little of the picture changes, but it mixes."""
    w = (np.arange(1, 11) / 11)[:, None, None, None]
    found = 0
    for i in range(0, 20, 2):
        a, b = (draw(scene_of(PLAIN, k)[0], PLAIN) for k in (i, i + 1))
        mixed = np.concatenate([a[:35], a[35:] * (1 - w) + b[:10] * w, b[10:]]).astype(np.uint8)
        found += any(t.touches(35, 45) for t in detect(mixed).transitions)
    assert found >= 8


def test_frames_without_change_and_very_short_videos() -> None:
    assert cuts_of(np.zeros((40, 64, 64, 3), np.uint8)) == []
    assert cuts_of(shot(0, 1)) == []
    assert cuts_of(shot(0, 2)) == []


@given(st.lists(st.integers(1, 500), unique=True, max_size=8), st.integers(1, 500))
def test_shots_cover_every_frame_once(cuts: list[int], frames: int) -> None:
    inside = sorted(c for c in cuts if c < frames)
    assert [i for a, b in shots(inside, frames) for i in range(a, b)] == list(range(frames))


@given(
    st.lists(st.integers(0, 100), max_size=6),
    st.lists(st.tuples(st.integers(0, 100), st.integers(0, 30)), max_size=4),
    st.integers(1, 120),
)
def test_no_shot_spans_a_cut_a_transition_or_a_gap(cuts: list[int], gone: list[tuple[int, int]], frames: int) -> None:
    cuts = [c for c in cuts if c < frames]
    ranges = [(min(a, frames), min(a + n, frames)) for a, n in gone]
    found = shots(cuts, frames, ranges)
    lost = {i for a, b in ranges for i in range(a, b)}
    assert [i for a, b in found for i in range(a, b)] == [i for i in range(frames) if i not in lost]
    assert not any(a < edge < b for a, b in found for edge in [*cuts, *(r[0] for r in ranges)])


@given(st.integers(0, 1000), st.integers(1, 100), st.integers(0, 10), st.integers(1, 40))
def test_trimming_drops_exactly_the_ends(start: int, length: int, trim: int, least: int) -> None:
    got = trimmed((start, start + length), SegmentConfig(trim=trim, min_frames=least))
    kept = list(range(start, start + length))[trim : length - trim] if length > 2 * trim else []
    assert (list(range(*got)) if got else []) == (kept if len(kept) >= least else [])
