"""Measured tags of a clip (§7.1), each a plain function of decoded frames. Frames are uint8 [H, W, 3] BGR."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from stepvideo.curation.config import BorderConfig, TagsConfig

Box = tuple[int, int, int, int]  # x, y, width, height in pixels


def sample_positions(frames: int, samples: int) -> list[int]:
    """Up to `samples` different frame numbers, the middles of equal parts of the clip, ascending."""
    return sorted({int((i + 0.5) * frames / samples) for i in range(samples)})


def saturation(frame: np.ndarray) -> float:
    """Mean of the saturation channel in HSV, 0 (grey) to 255."""
    import cv2

    return float(cv2.cvtColor(frame, cv2.COLOR_BGR2HSV)[..., 1].mean())


def sharpness(frame: np.ndarray) -> float:
    """Variance of the Laplacian of the grey frame (Pech-Pacheco et al. 2000); low: blurred or empty."""
    import cv2

    return float(cv2.Laplacian(cv2.cvtColor(frame, cv2.COLOR_BGR2GRAY), cv2.CV_32F).var(dtype=np.float64))


def reduced(frame: np.ndarray, height: int) -> np.ndarray:
    """The frame scaled down to `height` lines; smaller frames as they are."""
    import cv2

    if frame.shape[0] <= height:
        return frame
    width = max(1, round(frame.shape[1] * height / frame.shape[0]))
    return cv2.resize(frame, (width, height), interpolation=cv2.INTER_AREA)


def scores(frame: np.ndarray, config: TagsConfig) -> tuple[float, float, float]:
    """(saturation, sharpness, sharpness at `blur_height` lines) of one frame."""
    native = sharpness(frame)
    small = reduced(frame, config.blur_height)
    return saturation(frame), native, native if small is frame else sharpness(small)


def quality(sampled: Sequence[tuple[float, float, float]]) -> dict[str, float]:
    """Tags of a clip from the `scores` of its sampled frames; the report's blur score is a mean over frames."""
    colour, native, fixed = (np.array(s) for s in zip(*sampled))
    return {
        "saturation_mean": float(colour.mean()),
        "saturation_max": float(colour.max()),
        "saturation_min": float(colour.min()),
        "blur": float(native.mean()),
        "blur_fixed": float(fixed.mean()),
    }


NO_MOTION: dict[str, float | None] = dict.fromkeys(("motion_mean", "motion_max", "motion_min", "motion_rate"))


def small_grey(frame: np.ndarray, side: int) -> np.ndarray:
    """The frame in grey, uint8 [h, w], its shorter side scaled down to `side` pixels; smaller frames as they are."""
    import cv2

    short = min(frame.shape[:2])
    if short > side:
        size = (round(frame.shape[1] * side / short), round(frame.shape[0] * side / short))
        frame = cv2.resize(frame, size, interpolation=cv2.INTER_AREA)
    return cv2.cvtColor(frame, cv2.COLOR_BGR2GRAY)


def farneback(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Flow between two grey frames, float32 [h, w, 2]: (x, y) in their pixels."""
    import cv2

    return cv2.calcOpticalFlowFarneback(a, b, None, 0.5, 3, 15, 3, 5, 1.2, 0)  # type: ignore


class MotionMeter:
    """Farneback flow between neighbouring grey frames of a clip.

    Magnitudes are in pixels a frame, scaled as if the shorter side were `motion_side` pixels, so that they compare
    across sizes; `motion_rate` is the mean per second.
    """

    def __init__(self, config: TagsConfig, frames: int, fps: float) -> None:
        pairs = frames - 1
        wanted = min(pairs, config.motion_pairs or pairs)
        self._firsts = set(sample_positions(pairs, wanted)) if pairs > 0 else set()
        self._side = config.motion_side
        self._fps = fps
        self._n = 0
        self._previous: np.ndarray | None = None
        self._values: list[float] = []

    def add(self, frame: np.ndarray) -> None:
        """The clip's next frame, BGR."""
        n, self._n = self._n, self._n + 1
        second, first = n - 1 in self._firsts, n in self._firsts
        if not (first or second):
            self._previous = None
            return
        grey = small_grey(frame, self._side)
        if second and self._previous is not None:
            flow = farneback(self._previous, grey)
            # Not cv2.magnitude: its last bit depends on where the array lies in memory.
            magnitude = float(np.sqrt(np.square(flow, dtype=np.float64).sum(axis=-1)).mean())
            self._values.append(magnitude * self._side / min(grey.shape))
        self._previous = grey

    def tags(self) -> dict[str, float | None]:
        if not self._values:
            return dict(NO_MOTION)
        mean = float(np.mean(self._values))
        return {
            "motion_mean": mean,
            "motion_max": max(self._values),
            "motion_min": min(self._values),
            "motion_rate": mean * self._fps,
        }


def bright_shares(frame: np.ndarray, limit: int) -> tuple[np.ndarray, np.ndarray]:
    """Share of pixels above grey level `limit` in every row, float32 [H], and in every column, float32 [W]."""
    import cv2

    grey = cv2.cvtColor(frame, cv2.COLOR_BGR2GRAY)
    bright = cv2.threshold(grey, limit, 1, cv2.THRESH_BINARY)[1]
    rows = cv2.reduce(bright, 1, cv2.REDUCE_AVG, dtype=cv2.CV_32F)
    columns = cv2.reduce(bright, 0, cv2.REDUCE_AVG, dtype=cv2.CV_32F)
    return rows.ravel(), columns.ravel()


def border_crop(shares: Iterable[tuple[np.ndarray, np.ndarray]], config: BorderConfig) -> Box | None:
    """The picture inside black borders, from `bright_shares` of a clip's frames; None if there is no border.

    Unlike a plain cropdetect it asks for a straight, bright inner edge: a small thing on a black ground has none.
    """
    rows, columns = (np.max(np.stack(list(s)), axis=0) for s in zip(*shares))
    top, bottom = _edges(rows, config)
    left, right = _edges(columns, config)
    height, width = len(rows) - top - bottom, len(columns) - left - right
    if not (top or bottom or left or right) or height * width < config.min_area * len(rows) * len(columns):
        return None
    return left, top, width, height


def _edges(shares: np.ndarray, config: BorderConfig) -> tuple[int, int]:
    return _edge(shares, config), _edge(shares[::-1], config)


def _edge(shares: np.ndarray, config: BorderConfig) -> int:
    """Width of the border at the start of a profile; 0 if there is none to trust."""
    content = np.flatnonzero(shares > config.max_bright_share)
    if content.size == 0 or content[0] < config.min_size:
        return 0
    first = int(content[0])
    # A blurred edge takes a few lines to rise to the picture's brightness.
    return first if shares[first : first + 4].max() >= config.min_edge_share else 0
