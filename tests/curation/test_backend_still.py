"""Frozen and colourless clips: generated, and the real ones that are known to be so."""

from __future__ import annotations

import os
from pathlib import Path

import cv2
import numpy as np
import pytest

from stepvideo.curation.backends.still import Still
from stepvideo.curation.clip_frames import ClipFrames
from stepvideo.curation.config import TagsConfig
from stepvideo.curation.tags import quality, scores
from stepvideo.data.video_io import read_video

VIDEOS = Path(os.environ.get("STEPVIDEO_SHARED", Path(__file__).parents[3] / "shared")) / "videos"
REAL = ("made_frozen_4s.mp4", "made_greyscale.mp4", "made_blurry_240p.mp4", "flower_540p.mp4", "frog_toy_480p.mp4")


def clip(video: np.ndarray) -> ClipFrames:
    return ClipFrames.of("c", len(video), video, 10.0)


def moving(frames: int) -> np.ndarray:
    noise = np.random.default_rng(0).integers(0, 255, (16, 30, 3)).astype(np.uint8)
    wide = cv2.resize(noise, (300, 160), interpolation=cv2.INTER_CUBIC)
    return np.stack([wide[:, 4 * i : 4 * i + 200] for i in range(frames)])


def test_a_repeated_picture_is_frozen_also_under_grain() -> None:
    grain = np.random.default_rng(1).normal(0, 1, (12, 160, 200, 3))
    frozen = np.clip(moving(1) + grain, 0, 255).astype(np.uint8)
    assert Still()(clip(frozen)) == {"frozen": True, "frozen_share": 1.0, "frozen_s": 1.1, "greyscale": False}


def test_a_run_inside_a_moving_clip_is_measured() -> None:
    video = moving(21)
    video[5:10] = video[5]
    got = Still()(clip(video))
    assert (got["frozen"], got["frozen_share"], got["frozen_s"]) == (False, 0.2, 0.4)


def test_one_small_moving_thing_is_no_frozen_clip() -> None:
    video = np.repeat(moving(1), 10, axis=0)
    for i, frame in enumerate(video):
        cv2.circle(frame, (20 + 3 * i, 80), 6, (255, 255, 255), -1)
    assert Still()(clip(video))["frozen_share"] == 0


def test_greyscale_is_every_frame_without_colour() -> None:
    grey = moving(10)[..., :1].repeat(3, axis=-1)
    assert Still()(clip(grey))["greyscale"]
    assert not Still()(clip(np.concatenate([grey, moving(10)])))["greyscale"]


def test_a_still_is_not_frozen() -> None:
    assert Still()(clip(moving(1))) == {"frozen": None, "frozen_share": None, "frozen_s": None, "greyscale": False}


@pytest.mark.skipif(not VIDEOS.is_dir(), reason=f"needs the real clips in {VIDEOS} (set STEPVIDEO_SHARED)")
def test_the_real_frozen_grey_and_blurred_clips_are_tagged_and_no_other() -> None:
    frozen, grey, blurred = set(), set(), set()
    for name in REAL:
        video = read_video(VIDEOS / name, 6, 33)[..., ::-1]
        got = Still()(clip(video))
        frozen |= {name} if got["frozen"] else set()
        grey |= {name} if got["greyscale"] else set()
        blurred |= {name} if quality([scores(f, TagsConfig()) for f in video[::8]])["blur_fixed"] < 25 else set()
    assert (frozen, grey, blurred) == ({"made_frozen_4s.mp4"}, {"made_greyscale.mp4"}, {"made_blurry_240p.mp4"})
