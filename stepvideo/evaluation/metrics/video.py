"""A video as metrics see it: frames, and what several metrics derive from them, each computed once.

Legend: F frames, H W sides in pixels, h w sides of the small grey frames that flow is computed on.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from stepvideo.curation.clip_frames import ClipFrames

FLOW_SIDE = 256  # shorter side of the grey frames, in pixels: the size that VBench's motion threshold is stated for
MIN_SIDE = 16  # DIS needs patches of 8 pixels at half size


class Video:
    """
    Args:
        frames: uint8 [F, H, W, 3] RGB.
        fps: frames a second; 0 for a still.

    Raises:
        ValueError: another shape or type.
    """

    def __init__(self, frames: np.ndarray, fps: float) -> None:
        if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != np.uint8 or not len(frames):
            raise ValueError(f"frames {frames.dtype} {list(frames.shape)}: give uint8 [frames, height, width, 3], RGB")
        if fps < 0:
            raise ValueError(f"fps={fps}: give frames a second, 0 for a still")
        self.frames, self.fps = frames, fps
        self._flows: dict[tuple[int, int], np.ndarray] = {}

    def __len__(self) -> int:
        return len(self.frames)

    @property
    def seconds(self) -> float:
        """Length of the video; 0 for a still."""
        return len(self) / self.fps if self.fps else 0.0

    @functools.cached_property
    def small(self) -> np.ndarray:
        """RGB frames, uint8 [F, h, w, 3]: the shorter side scaled down to `FLOW_SIDE`; smaller frames as they are."""
        import cv2

        height, width = self.frames.shape[1:3]
        scale = FLOW_SIDE / min(height, width)
        if scale >= 1:
            return self.frames
        size = (round(width * scale), round(height * scale))
        return np.stack([cv2.resize(f, size, interpolation=cv2.INTER_AREA) for f in self.frames])

    @functools.cached_property
    def grey(self) -> np.ndarray:
        """`small` in grey, uint8 [F, h, w]."""
        import cv2

        return np.stack([cv2.cvtColor(f, cv2.COLOR_RGB2GRAY) for f in self.small])

    @functools.cached_property
    def clip(self) -> ClipFrames:
        """As the tags of curation see it: eight frames in colour, all of them small and grey."""
        return ClipFrames.of("video", len(self), (f[..., ::-1] for f in self.frames), self.fps)

    def flow(self, a: int, b: int) -> np.ndarray:
        """Dense optical flow from frame `a` to frame `b`, float32 [h, w, 2]: (x, y) in pixels of `small`.

        DIS, medium preset (Kroeger et al. 2016), in one thread: its result depends on their number. Flows to the next
        frame, which several metrics ask for, are kept.
        """
        import cv2

        if (a, b) in self._flows:
            return self._flows[a, b]
        threads = cv2.getNumThreads()
        cv2.setNumThreads(1)
        try:
            flow = _dis().calc(self.grey[a], self.grey[b], None)  # type: ignore
        finally:
            cv2.setNumThreads(threads)
        if b == a + 1:
            self._flows[a, b] = flow
        return flow

    @property
    def too_small(self) -> str:
        """Why there is no flow; "" if there is."""
        sides = self.frames.shape[1:3]
        if min(sides) < MIN_SIDE:
            return f"frames of {sides[0]} x {sides[1]} pixels: optical flow needs sides of {MIN_SIDE}"
        return "" if len(self) > 1 else "a still has no motion"


@functools.cache
def _dis() -> Any:
    import cv2

    return cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
