"""NudeNet: what its boxes become, and that filmed clips without anything of the kind stay unflagged."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from clip_folders import clip_frames

from stepvideo.curation.backends import Absent
from stepvideo.curation.backends.nudenet import EXPOSED, SEEN, NudeNet
from stepvideo.curation.clip_frames import ClipFrames
from stepvideo.data.video_io import read_video

VIDEOS = Path(os.environ.get("STEPVIDEO_SHARED", Path(__file__).resolve().parents[3] / "shared")) / "videos"


@pytest.fixture(scope="module")
def detector():
    return NudeNet()


def test_the_worst_box_of_exposed_parts_counts_and_covered_ones_do_not(detector, monkeypatch):
    boxes = iter(
        [
            [{"class": "FACE_FEMALE", "score": 0.99}, {"class": "BELLY_EXPOSED", "score": 0.9}],
            [{"class": "FEMALE_BREAST_EXPOSED", "score": 0.4}, {"class": "FEMALE_BREAST_COVERED", "score": 0.8}],
            [{"class": "BUTTOCKS_EXPOSED", "score": 0.7}, {"class": "ANUS_EXPOSED", "score": SEEN}],
        ]
    )
    monkeypatch.setattr(detector.detector, "detect", lambda frame: next(boxes, []))
    assert detector(clip_frames()) == {"nsfw": 0.7, "nsfw_parts": ["ANUS_EXPOSED", "BUTTOCKS_EXPOSED"]}
    assert detector(clip_frames()) == {"nsfw": 0.0, "nsfw_parts": []}


def test_every_part_that_counts_is_one_that_the_network_knows():
    import nudenet

    assert EXPOSED <= set(vars(nudenet.nudenet)["__labels"])


def test_it_uses_one_thread_and_is_absent_without_its_model(detector, tmp_path):
    assert detector.detector.onnx_session.get_session_options().intra_op_num_threads == 1
    with pytest.raises(Absent, match="nothing.onnx is missing"):
        NudeNet(str(tmp_path / "nothing.onnx"))


@pytest.mark.skipif(not VIDEOS.is_dir(), reason=f"no clips in {VIDEOS} (STEPVIDEO_SHARED)")
def test_filmed_clips_are_not_flagged(detector):
    for name in ("flower_540p.mp4", "frog_toy_480p.mp4", "crystal_handheld_480p.mp4"):
        frames = read_video(VIDEOS / name, 0, 60)[..., ::-1]
        found = detector(ClipFrames.of(name, len(frames), frames, 24.0, samples=4))
        assert found["nsfw"] < SEEN and not found["nsfw_parts"], name


def test_the_same_pictures_give_the_same_answer(detector):
    clip = clip_frames()
    assert detector(clip) == detector(ClipFrames("again", [np.array(f) for f in clip.frames], [], clip.grey, 24.0))
