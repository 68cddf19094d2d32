"""A film as a strip of tiny pictures, and distances between them. What decides about cuts and transitions looks here.

Legend: N frames, D = 18 × 32 × 3 values of a tiny picture. Distances are mean absolute differences in grey levels.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np

HEIGHT, WIDTH = 18, 32  # so small that motion and noise blur away, and a film of two hours takes 300 MB
LINES = (2 * HEIGHT, HEIGHT, HEIGHT)  # of Y, U and V that are looked at; all of them would cost a third of decoding
PLANAR = {f"yuv{j}{sampling}p" for j in ("", "j") for sampling in (420, 422, 444)}  # 8-bit, a plane for each colour
ROWS = 4096  # frames compared at a time
FAINT = 4.0  # grey levels; smaller differences are compression and noise


def tiny(frame: Any) -> np.ndarray:
    """A frame, `av.VideoFrame` or uint8 [H, W, 3] BGR, as uint8 [18, 32, 3] BGR.

    Planes of YUV are averaged where the decoder left them; their range and matrix are not asked for.
    """
    import cv2

    if isinstance(frame, np.ndarray):
        return _area(frame)
    if frame.format.name not in PLANAR:
        frame = frame.reformat(format="yuv444p", interpolation="FAST_BILINEAR", threads=1)
    y, u, v = (_area(_lines(plane, count)) for plane, count in zip(frame.planes, LINES))
    return cv2.cvtColor(cv2.merge([y, v, u]), cv2.COLOR_YCrCb2BGR)


def _area(picture: np.ndarray) -> np.ndarray:
    import cv2

    return cv2.resize(picture, (WIDTH, HEIGHT), interpolation=cv2.INTER_AREA)


def _lines(plane: Any, count: int) -> np.ndarray:
    """About `count` evenly spread lines of a plane, uint8 [n, w]; no copy."""
    step = max(1, plane.height // count)
    lines = np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)
    return lines[step // 2 : plane.height : step, : plane.width]


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
    def profiles(self) -> tuple[np.ndarray, np.ndarray]:
        """Distances of pictures i and i + 1 by column, float32 [N - 1, 32], and by line, float32 [N - 1, 18]."""
        import cv2

        columns, lines = np.zeros((2, max(len(self) - 1, 0), WIDTH), np.float32)
        lines = lines[:, :HEIGHT]
        for i, (a, b) in enumerate(zip(self.pictures[:-1], self.pictures[1:])):
            change = cv2.absdiff(a, b).reshape(HEIGHT, WIDTH * 3)
            columns[i] = cv2.reduce(change, 0, cv2.REDUCE_AVG, dtype=cv2.CV_32F).reshape(WIDTH, 3).mean(axis=1)
            lines[i] = cv2.reduce(change, 1, cv2.REDUCE_AVG, dtype=cv2.CV_32F).ravel()
        return columns, lines

    @cached_property
    def contrast(self) -> np.ndarray:
        """Standard deviation over a picture, mean of its three colours, float32 [N]; 0: a uniform picture."""
        import cv2

        pictures = self.pictures.reshape(-1, HEIGHT, WIDTH, 3)
        return np.array([cv2.meanStdDev(picture)[1].mean() for picture in pictures], np.float32)

    def likeness(self, i: int, j: int) -> float:
        """Correlation of pictures i and j, -1 to 1: 1 also for the same picture in another light."""
        a, b = (self.pictures[k] - self.pictures[k].mean(dtype=np.float64) for k in (i, j))
        return float((a * b).mean() / ((a.std() + 1) * (b.std() + 1)))
