"""What autograd keeps of a DiT from forward to backward, by operator, in closed form; torch-free.

One formula for one training (`train_memory`) and for arrays of plans (`plan_memory`): sizes are numbers or numpy arrays
that broadcast, results are bytes. It follows `dit_blocks`, `qk_norm`, `modulation` and the plans of
`stepvideo.parallel`, as they run on an accelerator; tests compare it with the tensors that real modules keep.

Legend: a rank's share of the video, in elements: n of what a block's matrices read, h of its heads, a of the heads that
attend over all tokens, b between the matrices, w of all tokens; t of the text's heads; e bytes of an element.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from stepvideo.emulator.flops import video_tokens
from stepvideo.models.config import DiTConfig

Size = Any  # a number, or an array that broadcasts


@dataclass(frozen=True)
class MicroBatch:
    """What a data rank computes at once: samples of one latent shape (frames, height, width) and their text tokens."""

    samples: Size
    latent: tuple[int, int, int]
    text: int = 256  # Step-LLM's
    clip: int = 77


@dataclass(frozen=True)
class Share:
    """What one rank has of a micro-batch.

    tensor, context: ranks that divide heads and widths, and tokens. sequence: tensor ranks divide the tokens between
    the matrices. residual: bytes of an element between the blocks. compiled: each block by torch.compile.
    """

    cfg: DiTConfig
    batch: MicroBatch
    tensor: Size = 1
    context: Size = 1
    sequence: Size = True
    e: int = 2
    residual: int = 2
    compiled: bool = False

    @property
    def width(self) -> int:
        return self.cfg.inner_dim

    @property
    def text(self) -> int:
        """Tokens of a prompt, of all encoders."""
        return self.batch.text + (self.batch.clip if len(self.cfg.caption_channels) == 2 else 0)

    @cached_property
    def tokens(self) -> int:
        """Of one video."""
        return video_tokens(self.cfg, *self.batch.latent)

    @cached_property
    def divided(self) -> Size:
        """Tensor ranks that divide the tokens between the matrices."""
        return np.where(np.asarray(self.sequence, dtype=bool), self.tensor, 1)

    @cached_property
    def own(self) -> Size:
        """Tokens of all samples on a context rank."""
        return self.batch.samples * _up(self.tokens, self.context)

    @cached_property
    def rows(self) -> Size:
        """Tokens between the matrices, filled up where they do not divide."""
        return self.batch.samples * _up(_up(self.tokens, self.context), self.divided)

    @cached_property
    def head_rows(self) -> Size:
        """Tokens times heads of a rank, outside self-attention."""
        return self.own * (self.cfg.num_attention_heads // self.tensor)

    @cached_property
    def attended_rows(self) -> Size:
        """Tokens times heads of a rank within self-attention: all tokens, and a context rank's share of the heads."""
        heads = self.cfg.num_attention_heads // self.tensor
        return self.batch.samples * self.tokens * _up(heads, self.context)

    @cached_property
    def n(self) -> Size:
        return self.rows * self.divided * self.width

    @cached_property
    def h(self) -> Size:
        return self.head_rows * self.cfg.attention_head_dim

    @cached_property
    def a(self) -> Size:
        return self.attended_rows * self.cfg.attention_head_dim

    @cached_property
    def b(self) -> Size:
        return self.rows * self.width

    @cached_property
    def w(self) -> Size:
        return self.batch.samples * self.tokens * self.width

    @cached_property
    def t(self) -> Size:
        return self.batch.samples * self.text * (self.width // self.tensor)


def of_block(s: Share) -> dict[str, Size]:
    """What one block keeps for its backward. Its output counts to the next block, as its input."""
    e, wide, own = s.e, s.n // s.tensor, s.h
    text_rows = s.batch.samples * s.text * (s.cfg.num_attention_heads // s.tensor)
    # Plain code works in fp32, before and after the norm; a compiler recomputes both from the projections. In fp32 the
    # former of self-attention and of the text are the projections.
    plain = not s.compiled
    copies = plain * (8 if e == 4 else 16)
    # v with the projection it lies in, and q, k normalised; Ulysses ranks receive all three, and keep the projection
    # only where q and k are to be computed again.
    whole = np.where(s.context > 1, 3 * s.a + s.compiled * 3 * wide, 2 * own + 3 * wide)
    return {
        "inputs of matrices": 3 * s.n * e,
        "residual": 2 * s.b * s.residual + 16 * s.rows,
        "gated branches": 2 * s.b * e,
        "self-attention": (whole + s.a + wide) * e + 4 * s.attended_rows,
        "QK-norm": copies * own + 8 * s.head_rows + plain * 8 * own + 4 * s.head_rows + 8 * s.cfg.attention_head_dim,
        "cross-attention": ((2 + s.compiled) * own + wide) * e + 4 * s.head_rows,
        "text": s.t * (3 * e + plain * (4 if e == 4 else 8)) + 4 * text_rows,
        "feed-forward": 8 * wide * e,
        "modulation": 6 * s.batch.samples * s.width * e,
    }


def of_recomputed(s: Share, attention: bool = False) -> Size:
    """What a block that recomputes keeps: its input and, if asked, the outputs of the fused attentions."""
    kept = s.b * s.residual
    if attention:
        kept = kept + (s.a + s.h) * s.e + 4 * (s.attended_rows + s.head_rows)
    return kept


def of_input(s: Share) -> Size:
    """Patches, text, timestep and positions; first block's input where it is a view of what all ranks have."""
    cfg, samples, e = s.cfg, s.batch.samples, s.e
    view = np.where((s.context > 1) & (s.divided == 1), (s.w - s.own * s.width) * e, 0)
    patches = samples * s.tokens * cfg.patch_size**2 * cfg.patch_channels * e
    text = samples * (s.text * s.width + s.batch.text * (cfg.caption_channels[0] + 2 * s.width)) * e
    text += 8 * samples * s.batch.text
    if len(cfg.caption_channels) == 2:
        text += samples * s.batch.clip * cfg.caption_channels[1] * e  # cast from fp32
    time = samples * (5 * s.width + 256) * e
    return view + patches + text + time + 8 * s.tokens * cfg.attention_head_dim


def of_output(s: Share) -> Size:
    """The last norm's input and output, what the output projection reads, and the velocity."""
    rows = s.batch.samples * s.tokens
    return 3 * s.w * s.e + 8 * rows + rows * s.cfg.patch_size**2 * s.cfg.out_channels * s.e


def in_backward(
    s: Share, recomputed: Size, few: Size, matrix: Size = 0, last: bool = True, exchange: Size = 0
) -> tuple[Size, Size]:
    """How much more there is at the worst moment of the backward, and how much more with the exchanges of blocks.

    Either at its start, when the gradients of the last norm's tensors are there; or in the last block, once what it
    recomputes is there again: in the feed-forward, whose gradient is gathered with sequence parallelism; when that of
    its input is being reduced over tensor ranks; or in the norm before it, which works in fp32.

    Args:
        recomputed: whether the block recomputes anything.
        few: bytes it kept nevertheless.
        matrix: bytes of the gradient of one feed-forward matrix, if nothing else counts it.
        last: whether the output is on this rank (the last pipeline stage).
        exchange: bytes of weights and gradients under way while a block computes; at the start there are none.
    """
    start = 3 * s.w * s.e if last else 0
    gathered, hidden = s.divided > 1, 4 * (s.n // s.tensor) * s.e
    moments = [hidden + np.where(gathered, s.n, s.b) * s.e + matrix]
    moments.append(np.where(gathered, (2 * s.n + 3 * s.b) * s.e, 0))
    if not s.compiled:
        moments.append((16 + s.e) * s.b - 2 * hidden)
    gradients = np.maximum.reduce(np.broadcast_arrays(*moments))
    again = np.where(recomputed, sum(of_block(s).values()) - few, 0)
    inside = again + gradients - start
    most = np.maximum(start, inside)
    return most, np.maximum(inside + exchange - most, 0)


def _up(n: Size, parts: Size) -> Size:
    return -(-n // parts)
