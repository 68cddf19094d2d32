"""Embeddings of all captions of a latents artifact, read as they are needed.

    captions.parquet         caption number → text, its shard, its row there, its first LLM token there, token count
    text/captions-*.safetensors    llm [tokens, D] ragged, clip [captions, L, D'], bfloat16

Legend: b captions, l longest LLM token count, L CLIP tokens, D D' feature widths.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import pyarrow.parquet as pq
import torch
from torch import Tensor

from stepvideo.data.latent_cache import LatentCache
from stepvideo.data.shards import shard_name

TABLE = "captions.parquet"
PREFIX = "text/captions"
EMPTY = 0  # number of the empty caption, which training drops to and guidance starts from


class TextCache:
    """The DiT's text arguments for captions by number."""

    def __init__(self, cache: LatentCache | str | Path) -> None:
        self.cache = cache if isinstance(cache, LatentCache) else LatentCache(cache)
        table = pq.read_table(self.cache.shards.file(TABLE), columns=["shard", "row", "first", "tokens"])
        self.shard, self.row, self.first, self.tokens = (c.to_numpy() for c in table.columns)

    @cached_property
    def texts(self) -> list[str]:
        """The captions themselves, by number."""
        return pq.read_table(self.cache.shards.file(TABLE), columns=["text"])["text"].to_pylist()

    @cached_property
    def clip_length(self) -> int:
        """L, the same for every caption."""
        return self._read(EMPTY, "clip").shape[0]

    def batch(self, numbers: Sequence[int]) -> dict[str, Tensor]:
        """See `text_arguments`."""
        return text_arguments([self._read(n, "llm") for n in numbers], [self._read(n, "clip") for n in numbers])

    def _read(self, number: int, tensor: str) -> Tensor:
        shard = shard_name(PREFIX, int(self.shard[number]))
        if tensor == "clip":
            row = int(self.row[number])
            return self.cache.shards.read(shard, "clip", row, row + 1)[0]
        first = int(self.first[number])
        return self.cache.shards.read(shard, "llm", first, first + int(self.tokens[number]))


def text_arguments(llm: Sequence[Tensor], clip: Sequence[Tensor]) -> dict[str, Tensor]:
    """encoder_hidden_states [b, l, D], encoder_hidden_states_2 [b, L, D'], encoder_attention_mask [b, L + l] of
    embeddings [tokens, D] and [L, D'] of b captions."""
    length = len(clip[0])
    padded = torch.nn.utils.rnn.pad_sequence([t.float() for t in llm], batch_first=True)
    mask = torch.zeros(len(llm), length + padded.shape[1], dtype=torch.int64)
    mask[:, :length] = 1  # CLIP's padding is attended, as released
    for row, tokens in enumerate(llm):
        mask[row, length : length + len(tokens)] = 1
    return {
        "encoder_hidden_states": padded,
        "encoder_hidden_states_2": torch.stack(list(clip)).float(),
        "encoder_attention_mask": mask,
    }
