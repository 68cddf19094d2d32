"""The text side of a latents artifact: captions get numbers, every caption is encoded once (layout: `text_cache`)."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from stepvideo.data.clips import Clip
from stepvideo.data.config import LatentsConfig
from stepvideo.data.draw import rng
from stepvideo.data.shards import Part, pack, shard_name
from stepvideo.data.text_cache import PREFIX, TABLE
from stepvideo.errors import Preempted
from stepvideo.models.text_encoders import TextEncoders, load_text_encoders
from stepvideo.stage import StageContext


class Captions:
    """Numbers captions; the same text has one number, the empty one 0.

    Attributes:
        unreadable: captions that were left out, because the encoders cannot spell them.
    """

    def __init__(self, cfg: LatentsConfig, readable: Callable[[str], bool] = lambda _: True) -> None:
        self.cfg, self._readable = cfg, cache(readable)
        self.texts: dict[str, int] = {"": 0}
        self.unreadable: set[str] = set()

    def of(self, clip: Clip) -> dict[str, list[int]]:
        """Caption numbers of a clip by kind; `variants` paraphrases a language, chosen by the clip's content."""
        cfg = self.cfg
        numbers: dict[str, list[int]] = {}
        for kind in cfg.kinds:
            chosen = []
            for language in cfg.languages:
                known = clip.captions.get(kind, {}).get(language, [])
                order = rng(cfg.seed, "variants", kind, language, int(clip.clip_id[:8], 16)).permutation(len(known))
                chosen += [text for i in order[: cfg.variants] if self._takes(text := known[i])]
            numbers[kind] = [self.texts.setdefault(text, len(self.texts)) for text in chosen]
        return numbers

    def _takes(self, text: str) -> bool:
        if not self._readable(text):
            self.unreadable.add(text)
        return text not in self.unreadable


def encode_text(ctx: StageContext, texts: list[str], device: torch.device) -> list[str]:
    """Write the caption table and put the embeddings into shards below `ctx.work`; their names.

    Raises:
        Preempted: a stop was asked for.
    """
    cfg: LatentsConfig = ctx.config
    encoders = load_text_encoders(ctx.inputs["text"], device)

    def after(i: int) -> None:
        ctx.sink.progress(min((i + 1) * cfg.text_batch_size, len(texts)), len(texts), "caption")
        if ctx.should_stop():
            raise Preempted

    batches = [texts[i : i + cfg.text_batch_size] for i in range(0, len(texts), cfg.text_batch_size)]
    makes = [partial(embed, encoders, batch) for batch in batches]
    placed = pack(ctx.work, PREFIX, makes, cfg.shard_mb * 10**6, after)
    shard = np.repeat([n for n, _ in placed], [len(tokens) for _, tokens in placed])
    tokens = np.concatenate([tokens for _, tokens in placed])
    row, first = np.empty_like(tokens), np.empty_like(tokens)
    for n in np.unique(shard):
        own = shard == n
        row[own] = np.arange(own.sum())
        first[own] = np.cumsum(tokens[own]) - tokens[own]
    columns = {"shard": shard, "row": row, "first": first, "tokens": tokens}
    pq.write_table(
        pa.table({"text": texts, **{k: pa.array(v, pa.int64()) for k, v in columns.items()}}), ctx.out / TABLE
    )
    return [shard_name(PREFIX, int(n)) for n in np.unique(shard)]


@torch.no_grad()
def embed(encoders: TextEncoders, texts: list[str]) -> Part:
    """llm [tokens, D] ragged, clip [texts, L, D'], bfloat16; the record is every text's number of LLM tokens."""
    batch = encoders.encode(texts)
    llm, clip, mask = (
        batch[k].cpu() for k in ("encoder_hidden_states", "encoder_hidden_states_2", "encoder_attention_mask")
    )
    tokens: list[int] = mask[:, clip.shape[1] :].sum(1).tolist()
    ragged = torch.cat([row[:n] for row, n in zip(llm, tokens, strict=True)])
    return {"llm": ragged.bfloat16(), "clip": clip.bfloat16()}, tokens
