"""Which of the proposed cuts are cuts: a step between two places, not a flash, a jerk of the camera or a keyframe."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from stepvideo.curation.config import SegmentConfig
from stepvideo.curation.strip import FAINT, Strip


def true_cuts(strip: Strip, proposed: Iterable[int], config: SegmentConfig) -> list[int]:
    """The proposed first frames of shots at which the picture really changes for good.

    The change must be more than noise and a share `min_change` of the picture's contrast; `min_step` times the mean
    change of the two frames before and after; and no picture of the next `flash_frames` may be as the last one before
    it was (nor the other way round: a flash ends as it began).
    """
    contrast = strip.contrast
    steps = np.concatenate([[0.0], strip.steps()])  # steps[t]: from t - 1 to t
    cuts = []
    for t in proposed:
        change = steps[t]
        if change < max(FAINT, config.min_change * contrast[t - 1 : t + 1].max()):
            continue
        around = [steps[i] for i in (t - 2, t - 1, t + 1, t + 2) if 0 < i < len(strip)]
        if change < config.min_step * np.mean(around or [0.0]):
            continue
        if not _returns(strip, t, config.flash_frames, change / 2):
            cuts.append(t)
    return cuts


def _returns(strip: Strip, t: int, frames: int, limit: float) -> bool:
    after = (strip.apart(t - 1, i) for i in range(t + 1, min(t + frames + 1, len(strip))))
    before = (strip.apart(i, t) for i in range(max(t - 1 - frames, 0), t - 1))
    return any(d < limit for d in after) or any(d < limit for d in before)
