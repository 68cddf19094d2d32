"""Where shots begin and end (§7.1). PySceneDetect's AdaptiveDetector proposes cuts, generously and on tiny pictures;
`flash` keeps the true ones, `transitions` finds the gradual ones, and clips are what is left between them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from stepvideo.curation.config import SegmentConfig
from stepvideo.curation.flash import true_cuts
from stepvideo.curation.strip import Strip, tiny
from stepvideo.curation.transitions import Transition, transitions

Span = tuple[int, int]


class CutDetector:
    """Collects frames in order, then says where shots end. No second decode, no video backend.

    Attributes (after `finish`):
        cuts: first frames of new shots after a hard cut, ascending; frame 0 is not among them.
        transitions: gradual ones; no cut lies in or beside them.
    """

    def __init__(self, config: SegmentConfig) -> None:
        self.config = config
        self.cuts: list[int] = []
        self.transitions: list[Transition] = []
        self._pictures: list[np.ndarray] = []

    def add(self, frame: Any) -> None:
        """The next frame, `av.VideoFrame` or uint8 [H, W, 3] BGR."""
        self._pictures.append(tiny(frame))

    def finish(self) -> CutDetector:
        """Decide. Returns itself."""
        if self._pictures:
            strip = Strip(self._pictures)
            self.transitions = transitions(strip, self.config)
            cuts = true_cuts(strip, proposed_cuts(self._pictures, self.config), self.config)
            gradual = [t for t in self.transitions if t.kind != "blank"]
            self.cuts = [c for c in cuts if not any(t.touches(c - 1, c + 2) for t in gradual)]
        return self

    def shots(self, unsound: Sequence[Span] = ()) -> list[Span]:
        """Shots as [start, end) frame ranges, without transitions and without the `unsound` frames."""
        gone = [*unsound, *((t.start, t.end) for t in self.transitions)]
        return shots(self.cuts, len(self._pictures), gone)


def proposed_cuts(pictures: Sequence[np.ndarray], config: SegmentConfig) -> list[int]:
    """What the AdaptiveDetector takes for first frames of shots, ascending.

    It sees a film's pictures in one go: between frames being decoded, nothing of it would be left in the caches.
    """
    from scenedetect.common import FrameTimecode
    from scenedetect.detectors import AdaptiveDetector

    detector = AdaptiveDetector(
        adaptive_threshold=config.adaptive_threshold,
        min_scene_len=1,
        window_width=config.window_width,
        min_content_val=config.min_content_val,
    )
    found: set[int] = set()
    for i, picture in enumerate(pictures):
        position = FrameTimecode(i, 25.0)  # only its number is used
        found |= {cut.frame_num for cut in detector.process_frame(position, picture)}
    return sorted(found - {0})


def shots(cuts: Sequence[int], frames: int, gone: Sequence[Span] = ()) -> list[Span]:
    """[start, end) ranges that cover 0 … frames - 1 but for the ranges in `gone`; none spans a cut or a `gone` range,
    be it empty."""
    found, start = [], 0
    for a, b in sorted([*gone, *((c, c) for c in cuts), (frames, frames)]):
        if start < a:
            found.append((start, a))
        start = max(start, b)
    return found


def trimmed(shot: Span, config: SegmentConfig) -> Span | None:
    """The shot without its first and last `trim` frames; None if fewer than `min_frames` are left."""
    start, end = shot[0] + config.trim, shot[1] - config.trim
    return (start, end) if end - start >= config.min_frames else None
