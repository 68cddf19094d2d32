"""Cuts where they are, none where they are not, and what is dropped around them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from known_videos import montage, shot

from stepvideo.curation.config import SegmentConfig
from stepvideo.curation.segment import CutDetector, shots, trimmed


def cuts_of(video: np.ndarray, config: SegmentConfig | None = None) -> list[int]:
    detector = CutDetector(config or SegmentConfig(), 24.0)
    for frame in video:
        detector.add(frame[..., ::-1])
    return detector.cuts()


@pytest.mark.parametrize("lengths", [[30, 25, 40], [20, 20, 20, 20], [17, 60, 17]])
@pytest.mark.parametrize("size", [(64, 64), (180, 320)])
def test_hard_cuts_are_found_on_the_frame(lengths: list[int], size: tuple[int, int]) -> None:
    assert cuts_of(montage(lengths, *size)) == np.cumsum(lengths)[:-1].tolist()


@pytest.mark.parametrize("seed", range(4))
def test_a_single_shot_has_no_cut(seed: int) -> None:
    assert cuts_of(shot(seed, 60)) == []


def test_detection_agrees_with_pyscenedetect_on_a_file(tmp_path) -> None:
    """Our direct feed is the reference's own result, also where frames are reduced first."""
    from known_videos import encode
    from scenedetect import AdaptiveDetector, detect

    video = montage([31, 26, 44], 240, 426)
    path = encode(tmp_path / "a.mp4", video)
    scenes = detect(str(path), AdaptiveDetector())
    assert cuts_of(video) == [start.frame_num for start, _ in scenes][1:] == [31, 57]


@pytest.mark.parametrize("middle", ["black", "dissolve"])
def test_a_fade_gives_shots_that_still_cover_the_video(middle: str) -> None:
    a, b = shot(1, 40).astype(float), shot(2, 40).astype(float)
    w = np.linspace(0, 1, 20)[:, None, None, None]
    if middle == "black":
        ramp = np.concatenate([a[-20:] * (1 - w), b[:20] * w])
    else:
        ramp = a[-20:] * (1 - w) + b[:20] * w
    video = np.concatenate([a[:20], ramp, b[20:]]).astype(np.uint8)
    found = shots(cuts_of(video), len(video))
    assert [s for pair in found for s in range(*pair)] == list(range(len(video)))


def test_frames_without_change_and_very_short_videos() -> None:
    assert cuts_of(np.zeros((40, 64, 64, 3), np.uint8)) == []
    assert cuts_of(shot(0, 1)) == []
    assert cuts_of(shot(0, 2)) == []


@given(st.lists(st.integers(1, 500), unique=True, max_size=8), st.integers(1, 500))
def test_shots_cover_every_frame_once(cuts: list[int], frames: int) -> None:
    inside = sorted(c for c in cuts if c < frames)
    assert [i for a, b in shots(inside, frames) for i in range(a, b)] == list(range(frames))


@given(st.integers(0, 1000), st.integers(1, 100), st.integers(0, 10), st.integers(1, 40))
def test_trimming_drops_exactly_the_ends(start: int, length: int, trim: int, least: int) -> None:
    got = trimmed((start, start + length), SegmentConfig(trim=trim, min_frames=least))
    kept = list(range(start, start + length))[trim : length - trim] if length > 2 * trim else []
    assert (list(range(*got)) if got else []) == (kept if len(kept) >= least else [])
