"""Frozen and colourless clips."""

from __future__ import annotations

from itertools import groupby
from typing import Any

import numpy as np

from stepvideo.curation.backends import Weightless
from stepvideo.curation.clip_frames import ClipFrames

SAME = 1.5  # grey levels: the largest difference of 5 × 5 means that noise and encoding leave
FROZEN = 0.9  # share of frozen pairs that makes a clip frozen
GREY = 8.0  # levels between the strongest and weakest channel of nearly every pixel


class Still(Weightless):
    """Neighbouring frames that are the same within noise, and pictures without colour."""

    version = "1"
    columns = {
        "frozen": "bool",  # nearly all neighbouring frames are the same: a still picture as a video
        "frozen_share": "double",  # share of neighbouring frames that are the same
        "frozen_s": "double",  # longest run of the same picture, in seconds
        "greyscale": "bool",
    }
    note = "frames compared at 128 lines; a motionless scene is frozen only if its grain, too, is small"

    def __call__(self, clip: ClipFrames) -> dict[str, Any]:
        same = [_difference(a, b) < SAME for a, b in zip(clip.grey[:-1], clip.grey[1:])]
        share = float(np.mean(same)) if same else None
        longest = max((len(list(run)) for value, run in groupby(same) if value), default=0)
        return {
            "frozen": None if share is None else share >= FROZEN,
            "frozen_share": share,
            "frozen_s": longest / clip.fps if same and clip.fps else None,
            "greyscale": all(_colour(f) < GREY for f in clip.frames),
        }


def _difference(a: np.ndarray, b: np.ndarray) -> float:
    """The largest change of a 5 × 5 mean between two frames, uint8 [h, w]."""
    import cv2

    change = cv2.subtract(a, b, dtype=cv2.CV_32F)
    return float(cv2.absdiff(cv2.blur(change, (5, 5)), 0.0).max())  # type: ignore[call-overload]


def _colour(frame: np.ndarray) -> float:
    """The 99th percentile of the difference between the channels of uint8 [H, W, 3]."""
    return float(np.percentile(frame.max(axis=-1) - frame.min(axis=-1), 99))
