"""Latents and embeddings as the cache would hold them, bit for bit, without the cache.

How numbers are rounded depends on what is encoded together (on a CPU up to 0.2 % of a VAE's moments change with the
batch size in float32, up to 88 % in bfloat16). So clips and captions go through the networks in the very batches of
stage `latents`, and what was encoded beside the one that was asked for is kept for later. Large clips are alone in
their batch anyway (`clips_at_once`); with `batch_size: 1` and `text_batch_size: 1` of that stage all are.

Legend: f latent frames, z latent channels, h w latent sides, L CLIP tokens, D D' feature widths.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Executor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stepvideo.config import load
from stepvideo.data.buckets import Bucket
from stepvideo.data.config import LatentsConfig
from stepvideo.data.encoding import encode_pixels
from stepvideo.data.frames import window
from stepvideo.data.latent_cache import SETTINGS, LatentCache
from stepvideo.data.latent_text import embed
from stepvideo.data.pixel_set import PixelSet
from stepvideo.data.text_cache import TextCache
from stepvideo.errors import ArtifactError
from stepvideo.models.text_encoders import TextEncoders
from stepvideo.models.video_vae import VideoVAE

Batch = dict[int, Tensor | str | tuple[Tensor, Tensor]]  # by row or caption number; of a clip that failed the reason


class CacheEncoder:
    """Encodes what a latents artifact that was made with `on_the_fly` lists.

    Attributes:
        batches: encoded so far. samples: in them.

    Args:
        catalog: the `curate` artifact.
        pool: decodes clips.
        keep_bytes: of encoded batches that are kept, the last used ones.
    """

    def __init__(
        self, cache: LatentCache, catalog: Path, vae: VideoVAE, text: TextEncoders, pool: Executor, keep_bytes: int
    ) -> None:
        self.cache, self.catalog, self.vae, self.text, self.pool = cache, catalog, vae, text, pool
        config = {k: v for k, v in cache.settings.items() if k in LatentsConfig.__dataclass_fields__}
        self.cfg: LatentsConfig = load(LatentsConfig, config, SETTINGS)
        self.batches = self.samples = 0
        self._texts = TextCache(cache).texts
        self._sets: dict[tuple[str, str], tuple[PixelSet, dict[str, int]]] = {}
        self._kept: OrderedDict[Any, Batch] = OrderedDict()
        self._keep_bytes, self._bytes = keep_bytes, 0

    def moments(self, kind: str, resolution: str, clip_id: str) -> Tensor:
        """[f, 2z, h, w] bfloat16 of a clip in its bucket.

        Raises:
            ArtifactError: the clip cannot be decoded.
        """
        data, rows = self._set(kind, resolution)
        row = rows[clip_id]
        bucket = data.bucket(row)
        every, (frames, height, width) = data.buckets[bucket], Bucket.parse(bucket)
        size = self.cfg.clips_in_batch(frames, height, width, self.vae.cfg.frame_len)
        first = int(np.searchsorted(every, row)) // size * size
        mine = every[first : first + size].tolist()
        found = self._batch((kind, resolution, bucket, first), lambda: self._encode(data, bucket, mine))[row]
        if isinstance(found, str):
            raise ArtifactError(found)
        assert isinstance(found, Tensor)
        return found

    def embedding(self, number: int) -> tuple[Tensor, Tensor]:
        """[tokens, D] of Step-LLM and [L, D'] of CLIP, bfloat16, of a caption by its number."""
        size = self.cfg.text_batch_size
        first = number // size * size
        found = self._batch(first, lambda: self._embed(first, self._texts[first : first + size]))[number]
        assert isinstance(found, tuple)
        return found

    def _set(self, kind: str, resolution: str) -> tuple[PixelSet, dict[str, int]]:
        """All clips of a kind and resolution, and the row of each."""
        if (kind, resolution) not in self._sets:
            data = PixelSet(self.cache, kind, resolution, self.catalog)
            self._sets[kind, resolution] = data, {name: i for i, name in enumerate(data.ids())}
        return self._sets[kind, resolution]

    def _encode(self, data: PixelSet, bucket: str, rows: list[int]) -> Batch:
        found: Batch = {}
        asked = [self.pool.submit(window, self.catalog, data.clips[r], *Bucket.parse(bucket)) for r in rows]
        pixels: dict[int, Tensor] = {}
        for row, future in zip(rows, asked, strict=True):
            try:
                pixels[row] = torch.from_numpy(np.ascontiguousarray(future.result()))
            except ArtifactError as e:
                found[row] = str(e)
        if pixels:
            moments = encode_pixels(self.vae, torch.stack(list(pixels.values())), self.cfg.precision).cpu()
            found |= dict(zip(pixels, moments, strict=True))
        return found

    def _embed(self, first: int, texts: list[str]) -> Batch:
        part, tokens = embed(self.text, texts)
        llm = part["llm"].split(tokens)
        return {first + i: (llm[i], part["clip"][i]) for i in range(len(texts))}

    def _batch(self, key: Any, make: Callable[[], Batch]) -> Batch:
        if key not in self._kept:
            batch = self._kept[key] = make()
            self.batches, self.samples = self.batches + 1, self.samples + len(batch)
            self._bytes += _size(batch)
            while self._bytes > self._keep_bytes and len(self._kept) > 1:
                self._bytes -= _size(self._kept.popitem(last=False)[1])
        self._kept.move_to_end(key)
        return self._kept[key]


def _size(batch: Batch) -> int:
    tensors = [t for v in batch.values() if not isinstance(v, str) for t in (v if isinstance(v, tuple) else (v,))]
    return sum(t.numel() * t.element_size() for t in tensors)
