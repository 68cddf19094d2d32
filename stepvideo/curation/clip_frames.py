"""A clip decoded once, as every tag sees it.

Legend: S sampled frames, N all frames, P pairs of neighbouring frames, H W sides in pixels, h w sides of small frames.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from stepvideo.curation.tags import Box, farneback, sample_positions, small_grey
from stepvideo.data.video_io import iter_frames, read_image

SAMPLES, SIDE = 8, 128  # frames of a clip (§7.1); shorter side of the small grey ones, in pixels


@dataclass(frozen=True)
class Window:
    """Where the pictures of a clip are: in a file, from a frame on, inside a box of it."""

    file: str
    still: bool
    first: int
    frames: int
    box: Box
    fps: float  # 0 for a still

    def pictures(self, root: Path) -> Iterator[np.ndarray]:
        """Every frame, uint8 [H, W, 3] BGR, of the file below `root`. Raises ArtifactError if it cannot be read."""
        path = root / self.file
        x, y, width, height = self.box
        for frame in [read_image(path)] if self.still else iter_frames(path, self.first, self.frames):
            yield frame[y : y + height, x : x + width, ::-1]


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
            small.append(small_grey(frame, SIDE))
            if i in wanted:
                kept.append(np.ascontiguousarray(frame))
        return cls(clip_id, kept, positions, np.stack(small), fps)

    def flows(self) -> Iterator[np.ndarray]:
        """Farneback flow between all neighbouring grey frames, P times float32 [h, w, 2]: (x, y) in their pixels.

        One at a time: those of ten minutes would take 4 GB.
        """
        return (farneback(a, b) for a, b in zip(self.grey[:-1], self.grey[1:]))
