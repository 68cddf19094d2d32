"""Where shots begin and end (§7.1): PySceneDetect's AdaptiveDetector, fed frame by frame, and the trimming of clips."""

from __future__ import annotations

import numpy as np

from stepvideo.curation.config import SegmentConfig

DETECT_WIDTH = 256  # wider frames are reduced to about this first, as PySceneDetect's own SceneManager does


class CutDetector:
    """Collects cuts from frames given in order. The detector is driven directly: no second decode, no video backend."""

    def __init__(self, config: SegmentConfig, fps: float) -> None:
        from scenedetect.common import FrameTimecode
        from scenedetect.detectors import AdaptiveDetector

        self._time = FrameTimecode
        self._fps = fps if fps > 0 else 25.0  # positions are frame numbers; the rate only labels them
        self._detector = AdaptiveDetector(
            adaptive_threshold=config.adaptive_threshold,
            min_scene_len=config.min_scene_len,
            window_width=config.window_width,
            min_content_val=config.min_content_val,
        )
        self._n = 0
        self._cuts: list[int] = []

    def add(self, frame: np.ndarray) -> None:
        """The next frame, uint8 [H, W, 3] BGR."""
        import cv2

        factor = frame.shape[1] / DETECT_WIDTH
        if factor > 1:
            size = (round(frame.shape[1] / factor), max(1, round(frame.shape[0] / factor)))
            frame = cv2.resize(frame, size, interpolation=cv2.INTER_LINEAR)
        found = self._detector.process_frame(self._time(self._n, self._fps), frame)
        self._cuts += [cut.frame_num for cut in found]
        self._n += 1

    def cuts(self) -> list[int]:
        """First frames of new shots, ascending; frame 0 is not among them."""
        return sorted({c for c in self._cuts if 0 < c < self._n})


def shots(cuts: list[int], frames: int) -> list[tuple[int, int]]:
    """Shots as [start, end) frame ranges that cover 0 … frames - 1."""
    edges = [0, *cuts, frames]
    return [(a, b) for a, b in zip(edges, edges[1:]) if a < b]


def trimmed(shot: tuple[int, int], config: SegmentConfig) -> tuple[int, int] | None:
    """The shot without its first and last `trim` frames; None if fewer than `min_frames` are left."""
    start, end = shot[0] + config.trim, shot[1] - config.trim
    return (start, end) if end - start >= config.min_frames else None
