"""What the Video-VAE is trained on: clips and images, whole or as crops of where something is (report §4.1.4)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import Tensor

from stepvideo.data.clips import Clip
from stepvideo.data.draw import Sampler, rng
from stepvideo.data.frames import resize, to_tensor, windows
from stepvideo.data.source import Batch, deal
from stepvideo.errors import StepVideoError
from stepvideo.training.config import VAETrainConfig

FRAMES = 17
VALIDATION = 16  # clips held back


class ClipFrames:
    """Windows of all clips in memory, as uint8.

    A step has clips of one length, or images, all of one size. With `joint_images` every step has both, in
    micro-batches of their own.
    """

    def __init__(self, directory: Path, clips: Sequence[Clip], cfg: VAETrainConfig) -> None:
        self.cfg, self.size = cfg, max(cfg.sizes)
        if len(clips) <= VALIDATION:
            raise StepVideoError(f"{len(clips)} clips are too few to train a VAE on; {VALIDATION} are held back")
        data = windows(directory, clips, FRAMES, self.size)
        self.train, self.validation = data[:-VALIDATION], data[-VALIDATION:]
        self.ids = [c.clip_id for c in clips]
        images = cfg.joint_images or cfg.batch_size * cfg.images_per_clip
        self.rows = {
            (image, crop): Sampler(
                len(self.train),
                (images if image else cfg.batch_size) * (cfg.crops_per_clip if crop else 1),
                cfg.seed + image + 2 * crop,
            )
            for image in (False, True)
            for crop in (False, True)
        }
        steps = [False] if not cfg.image_share else [True] if cfg.image_share == 1 else [False, True]
        kinds = {*steps, True} if cfg.joint_images else steps
        crop = bool(cfg.crop and cfg.crop_share == 1)
        self.fewest = min(self.rows[image, crop].batch_size for image in kinds)  # samples of a kind in any step

    def micro_batches(self, step: int, rank: int, ranks: int, accumulate: int) -> list[Batch]:
        """`x` [b, t, 3, h, w] in [-1, 1]; `index`: the samples' places in the global batch.

        Raises:
            ValueError: fewer samples than micro-batches, in whatever step it will be.
        """
        deal(self.fewest, rank, ranks, accumulate)
        draw = rng(self.cfg.seed, "vae batch", step)
        shown = [self._draw(step, bool(draw.random() < self.cfg.image_share), draw)]
        if self.cfg.joint_images:
            shown.append(self._draw(step, True, draw))
        samples, first, batches = sum(len(s.rows) for s in shown), 0, []
        for s in shown:
            for mine in deal(len(s.rows), rank, ranks, accumulate):
                batches.append(
                    {
                        "x": self._frames(s, mine),
                        "index": [first + i for i in mine],
                        "share": len(mine) / samples,
                        "ids": [self.ids[s.rows[i]] for i in mine],
                    }
                )
            first += len(s.rows)
        return batches

    def _draw(self, step: int, image: bool, draw: np.random.Generator) -> _Shown:
        cfg = self.cfg
        length = 1 if image else int(draw.choice(cfg.lengths))
        crop = bool(cfg.crop and draw.random() < cfg.crop_share)
        size = int(draw.choice(cfg.sizes))
        rows = self.rows[image, crop].batch(step)
        starts = draw.integers(0, FRAMES - length + 1, len(rows))
        corners = draw.integers(0, self.size - cfg.crop + 1, (len(rows), cfg.crop_tries, 2)) if cfg.crop else None
        return _Shown(length, size, rows, starts, corners if crop else None)

    def _frames(self, shown: _Shown, mine: list[int]) -> Tensor:
        frames = [self.train[shown.rows[i], shown.starts[i] : shown.starts[i] + shown.length] for i in mine]
        if shown.corners is None:
            return resize(to_tensor(np.stack(frames)), shown.size)
        cuts = [liveliest(f, shown.corners[i], self.cfg.crop) for f, i in zip(frames, mine, strict=True)]
        return to_tensor(np.stack(cuts))


@dataclass(frozen=True)
class _Shown:
    """Clips or images of a step: frames of each, side of the whole frame, rows of the data, first frames, corners of
    crops (None: whole frames)."""

    length: int
    size: int
    rows: list[int]
    starts: np.ndarray
    corners: np.ndarray | None


def liveliest(frames: np.ndarray, corners: np.ndarray, side: int) -> np.ndarray:
    """Of the crops of [t, h, w, 3] at `corners` (y, x), the one whose colours vary most over space and time.

    Most of a frame is background: crops taken anywhere would show a small object, and its corners, too rarely.
    """
    cuts = [frames[:, y : y + side, x : x + side] for y, x in corners]
    return max(cuts, key=lambda c: c.var(axis=(0, 1, 2), dtype=np.float32).sum()) if len(cuts) > 1 else cuts[0]
