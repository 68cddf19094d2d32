"""A film as a strip of tiny pictures, and distances between them. What decides about cuts and transitions looks here.

Legend: N frames, D = 18 × 32 × 3 values of a tiny picture. Distances are mean absolute differences in grey levels.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np

HEIGHT, WIDTH = 18, 32  # so small that motion and noise blur away, and a film of two hours takes 300 MB
SAMPLED_WIDTH = 128  # pixels sampled from every line first; averaging all of them costs a third of decoding
ROWS = 4096  # frames compared at a time
FAINT = 4.0  # grey levels; smaller differences are compression and noise


def tiny(frame: Any) -> np.ndarray:
    """A frame, `av.VideoFrame` or uint8 [H, W, 3] BGR, as uint8 [18, 32, 3] BGR."""
    import cv2

    if not isinstance(frame, np.ndarray):
        width = min(frame.width, SAMPLED_WIDTH)
        height = min(frame.height, max(HEIGHT, round(frame.height * width / frame.width)))
        frame = frame.reformat(width, height, "bgr24", interpolation="FAST_BILINEAR", threads=1).to_ndarray()
    return cv2.resize(frame, (WIDTH, HEIGHT), interpolation=cv2.INTER_AREA)


class Strip:
    """N tiny pictures, uint8 [N, D]."""

    def __init__(self, pictures: list[np.ndarray]) -> None:
        self.pictures = np.stack(pictures).reshape(len(pictures), -1)

    def __len__(self) -> int:
        return len(self.pictures)

    def apart(self, i: int, j: int) -> float:
        """Distance of pictures i and j."""
        return float(np.abs(np.subtract(self.pictures[i], self.pictures[j], dtype=np.int16)).mean())

    def steps(self, lag: int = 1) -> np.ndarray:
        """Distances of pictures i and i + `lag`, float32 [N - lag]."""
        import cv2

        out: list[np.ndarray] = [np.zeros(0, np.float32)]
        for a in range(0, len(self) - lag, ROWS):
            b = min(a + ROWS, len(self) - lag)
            change = cv2.absdiff(self.pictures[a:b], self.pictures[a + lag : b + lag])
            out.append(cv2.reduce(change, 1, cv2.REDUCE_AVG, dtype=cv2.CV_32F).ravel())
        return np.concatenate(out)

    @cached_property
    def contrast(self) -> np.ndarray:
        """Standard deviation over a picture, mean of its three colours, float32 [N]; 0: a uniform picture."""
        out = [
            self.pictures[a : a + ROWS].reshape(-1, HEIGHT * WIDTH, 3).std(axis=1, dtype=np.float32).mean(axis=1)
            for a in range(0, len(self), ROWS)
        ]
        return np.concatenate(out)

    def likeness(self, i: int, j: int) -> float:
        """Correlation of pictures i and j, -1 to 1: 1 also for the same picture in another light."""
        a, b = (self.pictures[k] - self.pictures[k].mean(dtype=np.float64) for k in (i, j))
        return float((a * b).mean() / ((a.std() + 1) * (b.std() + 1)))
