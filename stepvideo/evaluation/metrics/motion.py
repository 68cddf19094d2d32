"""How much a video changes from frame to frame, and how much of that is motion."""

from __future__ import annotations

import numpy as np

from stepvideo.evaluation.metrics.base import HIGHER, NEITHER, Asked, Computed, Null
from stepvideo.evaluation.metrics.video import Video

VBENCH_FPS = 8.0  # frames a second that VBench looks at for the dynamic degree
FASTEST = 0.05  # share of the pixels whose mean speed counts
THRESHOLD = 6.0  # pixels of a picture with a shorter side of 256


def speeds(flow: np.ndarray) -> np.ndarray:
    """Length of every vector of a flow [h, w, 2], float64 [h, w]."""
    return np.sqrt(np.square(flow, dtype=np.float64).sum(axis=-1))


class Flicker(Computed):
    """Temporal flickering (VBench, Huang et al. 2024): (255 − mean |Iₜ₊₁ − Iₜ|) / 255 over frames, pixels and channels.

    A still video scores 1, the best there is, so the motion stands beside it: mean length of the flow to the next frame
    as a share of the shorter side, times frames a second. Neither says anything without the other.
    """

    name, version = "flicker", "1"
    values = {"temporal_flicker": HIGHER, "motion_magnitude": NEITHER}

    def score(self, video: Video, asked: Asked) -> dict[str, float | Null] | Null:
        if video.too_small:
            return Null(video.too_small)
        import cv2

        pairs = list(zip(video.frames[:-1], video.frames[1:]))
        change = float(np.mean([cv2.absdiff(a, b).mean(dtype=np.float64) for a, b in pairs]))
        motion = float(np.mean([speeds(video.flow(i, i + 1)).mean() for i in range(len(video) - 1)]))
        per_second = motion / min(video.grey.shape[1:]) * video.fps
        return {
            "temporal_flicker": (255 - change) / 255,
            "motion_magnitude": per_second if video.fps else Null("frames without a rate have no motion a second"),
        }


class DynamicDegree(Computed):
    """Whether a video moves at all, 0 or 1, by VBench's rule with DIS in place of RAFT; hence the name.

    Of every round(fps / 8)-th frame, a pair moves if the fastest 5 % of its flow are on average longer than
    6 · max(1, 8 / fps) pixels of a picture with a shorter side of 256. A video of n such frames moves if round(n / 4)
    pairs do. VBench calls every video of one or two such frames moving, as that asks for no pair: here they have no
    score.
    """

    name, version = "dynamic_degree", "1"
    values = {"dynamic_degree_dis": NEITHER}
    rates = ("dynamic_degree_dis",)

    def score(self, video: Video, asked: Asked) -> dict[str, float | Null] | Null:
        if video.too_small:
            return Null(video.too_small)
        if not video.fps:
            return Null("frames without a rate: the rule is stated at 8 frames a second")
        step = max(1, round(video.fps / VBENCH_FPS))
        seen = list(range(0, len(video), step))
        wanted = round(4 * (len(seen) / 16))
        if wanted < 1:
            return Null(f"{len(seen)} frames at {VBENCH_FPS:g} a second: the rule asks for 3 or more")
        threshold = max(1.0, VBENCH_FPS / video.fps) * THRESHOLD * min(video.grey.shape[1:]) / 256
        moving = sum(_fastest(video.flow(a, b)) > threshold for a, b in zip(seen, seen[1:]))
        return {"dynamic_degree_dis": float(moving >= wanted)}


def _fastest(flow: np.ndarray) -> float:
    """Mean length of the longest 5 % of the vectors."""
    lengths = speeds(flow).ravel()
    count = max(1, int(lengths.size * FASTEST))
    return float(np.partition(lengths, lengths.size - count)[-count:].mean())
