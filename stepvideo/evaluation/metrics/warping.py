"""Do frames follow from their neighbours by motion? Two metrics that move pixels along optical flow.

Legend: h w sides of the small frames that `Video.flow` is stated in.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from stepvideo.evaluation.metrics.base import HIGHER, LOWER, NEITHER, Asked, Computed, Null
from stepvideo.evaluation.metrics.video import Video


class WarpError(Computed):
    """Flow-warp error (Lai et al. 2018): mean square of Iₜ(p) − Iₜ₊₁(p + f(p)), RGB in [0, 1], f the flow t → t+1.

    `warp_error` is over all pixels. What appears or goes out of sight cannot match, so `warp_error_visible` is over
    pixels that both frames show: inside the frame and, forward and back, |f + f'|² < 0.01 (|f|² + |f'|²) + 0.5
    (Sundaram et al. 2010). `pixels_visible` is their share; small, it says that flow explains little of the video.
    """

    name, version = "warp_error", "1"
    values = {"warp_error": LOWER, "warp_error_visible": LOWER, "pixels_visible": NEITHER}

    def score(self, video: Video, asked: Asked) -> dict[str, float | Null] | Null:
        if video.too_small:
            return Null(video.too_small)
        square = both = shown = 0.0
        pairs = len(video) - 1
        for i in range(pairs):
            there = video.flow(i, i + 1)
            frame, other = (video.small[j].astype(np.float32) / 255 for j in (i, i + 1))
            error = np.square(frame - sampled(other, there), dtype=np.float64).mean(axis=-1)
            visible = seen_in_both(there, video.flow(i + 1, i))
            square += float(error.mean())
            both += float(error[visible].sum())
            shown += int(visible.sum())
        return {
            "warp_error": square / pairs,
            "warp_error_visible": both / shown if shown else Null("no pixel is seen in two frames in a row"),
            "pixels_visible": shown / (pairs * video.grey[0].size),
        }


class Smoothness(Computed):
    """VBench's motion smoothness (Huang et al. 2024) with DIS in place of AMT: every odd frame is left out, made again
    from its neighbours, and compared: (255 − mean |I − Î|) / 255.

    The middle between I₀ and I₂ is the mean of both, each moved half of the way: with F the flow 0 → 2 and B the flow
    2 → 0, from I₀ at p + (B − F) / 4 and from I₂ at p + (F − B) / 4 (Jiang et al. 2018, eq. 4 at t = 1/2). A still
    video scores 1: read it beside `motion_magnitude`.
    """

    name, version = "smoothness", "1"
    values = {"motion_smoothness_dis": HIGHER}

    def score(self, video: Video, asked: Asked) -> dict[str, float | Null] | Null:
        if video.too_small or len(video) < 3:
            return Null(video.too_small or f"{len(video)} frames: one between two others is needed")
        errors = []
        for i in range(1, len(video) - 1, 2):
            quarter = (video.flow(i - 1, i + 1) - video.flow(i + 1, i - 1)) / 4
            before, after = (video.small[j].astype(np.float32) for j in (i - 1, i + 1))
            middle = np.rint((sampled(before, -quarter) + sampled(after, quarter)) / 2)
            errors.append(np.abs(middle - video.small[i], dtype=np.float64).mean())
        return {"motion_smoothness_dis": (255 - float(np.mean(errors))) / 255}


def sampled(picture: np.ndarray, flow: np.ndarray) -> np.ndarray:
    """`picture` [h, w, …] float32 at p + flow(p), bilinear; beyond its edge, the edge."""
    import cv2

    x, y = _targets(flow)
    return cv2.remap(picture, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)


def seen_in_both(there: np.ndarray, back: np.ndarray) -> np.ndarray:
    """Pixels of the first frame that the second shows, too, bool [h, w]."""
    x, y = _targets(there)
    height, width = x.shape
    inside = (x >= 0) & (x <= width - 1) & (y >= 0) & (y <= height - 1)
    returned = sampled(back, there)
    limit = 0.01 * (_square([there]) + _square([returned])) + 0.5
    return inside & (_square([there, returned]) < limit)


def _targets(flow: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    height, width = flow.shape[:2]
    y, x = np.mgrid[:height, :width].astype(np.float32)
    return x + flow[..., 0], y + flow[..., 1]


def _square(flows: Iterable[np.ndarray]) -> np.ndarray:
    """Squared length of the sum of flows, [h, w]."""
    return np.square(sum(flows)).sum(axis=-1)
