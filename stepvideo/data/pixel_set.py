"""Encoding on the fly: loader processes decode clips, the training device turns them into latents.

Draws, captions and windows are those of the cache, so that latents are equal to cached ones up to bfloat16 rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from stepvideo.data.buckets import Bucket
from stepvideo.data.clips import Clip, load_catalog
from stepvideo.data.encoding import encode_pixels, latents
from stepvideo.data.frames import window
from stepvideo.data.latent_cache import ClipSet, LatentCache, LatentSet
from stepvideo.data.source import Batch
from stepvideo.diffusion.latent_stats import LatentStats
from stepvideo.errors import ArtifactError, ConfigError
from stepvideo.models.video_vae import VideoVAE

T = TypeVar("T")
STAND_INS = 8  # clips of a bucket that may fail one after the other


class PixelSet(ClipSet):
    """Clips of a catalog as a latents artifact sorts them into buckets; it may hold no moments itself.

    A clip that cannot be decoded is replaced by the next of its bucket, so that batches stay a function of the step.

    Args:
        catalog: the `curate` artifact. The others: see `ClipSet`.
    """

    def __init__(
        self,
        cache: LatentCache | str | Path,
        kind: str,
        resolution: str,
        catalog: Path,
        ids: Sequence[str] | None = None,
        exclude: Collection[str] = (),
    ) -> None:
        super().__init__(cache, kind, resolution, ids, exclude)
        self.catalog = catalog

    @cached_property
    def clips(self) -> list[Clip]:
        """Row i's clip."""
        return load_catalog(self.catalog, self.ids())

    def sample(self, i: int, eps: Tensor | None) -> tuple[int, dict[str, Tensor], list[tuple[str, str]]]:
        """(the row that was read, its tensors, clips that failed with reasons).

        The tensors are pixels, uint8 [T, H, W, 3], and `eps` if there is any.

        Raises:
            ArtifactError: the clip and all that may stand in for it cannot be decoded.
        """
        bucket = Bucket.parse(self.bucket(i))
        row, pixels, failed = self.readable(i, lambda row: window(self.catalog, self.clips[row], *bucket))
        tensors = {"pixels": torch.from_numpy(np.ascontiguousarray(pixels))}
        return row, tensors if eps is None else tensors | {"eps": eps}, failed

    def readable(self, i: int, read: Callable[[int], T]) -> tuple[int, T, list[tuple[str, str]]]:
        """(the row that was read, what `read` made of it, clips that failed with reasons): row i, or else the next ones
        of its bucket. Raises as `sample`.
        """
        failed: list[tuple[str, str]] = []
        bucket = self.bucket(i)
        rows = self.buckets[bucket]
        first = int(np.searchsorted(rows, i))
        for place in range(first, first + min(len(rows), 1 + STAND_INS)):
            row = int(rows[place % len(rows)])
            if failed and failed[-1][0] == self.id(row):  # a clip of some weight has several rows
                continue
            try:
                return row, read(row), failed
            except ArtifactError as e:
                failed.append((self.id(row), str(e)))
        reasons = "; ".join(f"{clip}: {reason}" for clip, reason in failed[:3])
        raise ArtifactError(
            f"{len(failed)} clips of bucket {bucket} in a row cannot be decoded: {reasons}; curate again"
        )

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if k != "clips"}


def clip_set(
    cache: LatentCache, kind: str, resolution: str, catalog: Path | None, ids: Sequence[str] | None = None
) -> LatentSet | PixelSet:
    """What a latents artifact was made for: cached latents, or the clips of `catalog` to encode on the fly.

    Raises:
        ConfigError: clips are needed and there is no catalog.
    """
    if not cache.settings["on_the_fly"]:
        return LatentSet(cache, kind, resolution, ids)
    if catalog is None:
        raise ConfigError(
            f"the latent cache {cache.root} holds no latents (on_the_fly=true): training from it needs the "
            "curated clips and the VAE as inputs (curate, vae); or cache latents with on_the_fly=false"
        )
    return PixelSet(cache, kind, resolution, catalog, ids)


def prepare(batch: Batch, vae: VideoVAE, stats: LatentStats, precision: str) -> Batch:
    """The micro-batch with x1 [B, f, z, h, w] in place of its pixels, on the VAE's device; any other one as it is."""
    if "pixels" not in batch:
        return batch
    rest = {k: v for k, v in batch.items() if k not in ("pixels", "eps")}
    return rest | {"x1": latents(encode_pixels(vae, batch["pixels"], precision), stats, batch.get("eps"))}
