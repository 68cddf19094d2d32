"""A clip decoded once, as every tag sees it.

Legend: S sampled frames, N all frames, P pairs of neighbouring frames, H W sides in pixels, h w sides of small frames.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from stepvideo.curation.tags import sample_positions

SAMPLES, SIDE = 8, 128  # frames of a clip (§7.1); shorter side of the small grey ones, in pixels


@dataclass
class ClipFrames:
    """What tags are functions of.

    Attributes:
        frames: S of the clip's frames, evenly spread, uint8 [H, W, 3] BGR.
        positions: their numbers in the clip.
        grey: every frame, small and grey, uint8 [N, h, w]; the shorter side has `SIDE` pixels, or its own if fewer.
        fps: frames a second; 0 for a still.
    """

    clip_id: str
    frames: list[np.ndarray]
    positions: list[int]
    grey: np.ndarray
    fps: float

    @classmethod
    def of(
        cls, clip_id: str, total: int, frames: Iterable[np.ndarray], fps: float, samples: int = SAMPLES
    ) -> ClipFrames:
        """From the clip's `total` frames in order, each uint8 [H, W, 3] BGR; one pass, only what is needed is kept."""
        positions = sample_positions(total, samples)
        wanted, kept, small = set(positions), [], []
        for i, frame in enumerate(frames):
            small.append(_small(frame))
            if i in wanted:
                kept.append(np.ascontiguousarray(frame))
        return cls(clip_id, kept, positions, np.stack(small), fps)

    @cached_property
    def flows(self) -> list[np.ndarray]:
        """Farneback flow between all neighbouring grey frames, P times float32 [h, w, 2]: (x, y) in their pixels."""
        import cv2

        pairs = zip(self.grey[:-1], self.grey[1:])
        return [cv2.calcOpticalFlowFarneback(a, b, None, 0.5, 3, 15, 3, 5, 1.2, 0) for a, b in pairs]  # type: ignore


def _small(frame: np.ndarray) -> np.ndarray:
    import cv2

    short = min(frame.shape[:2])
    if short > SIDE:
        size = (round(frame.shape[1] * SIDE / short), round(frame.shape[0] * SIDE / short))
        frame = cv2.resize(frame, size, interpolation=cv2.INTER_AREA)
    return cv2.cvtColor(frame, cv2.COLOR_BGR2GRAY)
