"""Blocks that the report compares its DiT with (§10.1): spatial-temporal attention and MMDiT.

Legend: b batch, f frames, s video tokens of all frames, p tokens of one frame, l text tokens, h heads, e head width,
d inner width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from stepvideo.models.attention import attention
from stepvideo.models.config import DiTConfig
from stepvideo.models.dit_blocks import QK_EPS, SelfAttention, block_norm, rope_split
from stepvideo.models.layers import FeedForward, RMSNorm
from stepvideo.models.modulation import gated_sum, modulation, norm_modulate
from stepvideo.models.qk_norm import qk_norm

Rope = tuple[Tensor, Tensor]


class SpatialAttention(SelfAttention):
    """Every token reads the tokens of its own frame; `rope` holds the tables of one frame."""

    def forward(self, x_bsd: Tensor, rope: Rope) -> Tensor:
        tokens = rope[0].shape[0]
        return super().forward(x_bsd.reshape(-1, tokens, x_bsd.shape[-1]), rope).view_as(x_bsd)


class TemporalAttention(SelfAttention):
    """Every token reads the tokens at its own place in all frames; `rope` holds the tables of one place."""

    def forward(self, x_bsd: Tensor, rope: Rope) -> Tensor:
        b, frames = x_bsd.shape[0], rope[0].shape[0]
        x_bpfd = x_bsd.unflatten(1, (frames, -1)).transpose(1, 2)
        out = super().forward(x_bpfd.flatten(0, 1), rope)
        return out.unflatten(0, (b, -1)).transpose(1, 2).flatten(1, 2)


class Stream(nn.Module):
    """The weights that one of the two streams of an MMDiT block has to itself.

    An `unread` stream only offers keys and values: nothing comes after it, so its tokens are not computed further.
    """

    def __init__(self, cfg: DiTConfig, unread: bool = False) -> None:
        super().__init__()
        d, hd = cfg.inner_dim, cfg.attention_head_dim
        self.head_dim, self.split, self.unread = hd, rope_split(cfg), unread
        self.scale_shift_table = nn.Parameter(torch.zeros(2 if unread else 6, d))
        self.norm1 = block_norm(cfg)
        self.k_norm = RMSNorm(hd, QK_EPS)
        if unread:
            self.wkv = nn.Linear(d, 2 * d, bias=False)
        else:
            self.wqkv = nn.Linear(d, 3 * d, bias=False)
            self.q_norm = RMSNorm(hd, QK_EPS)
            self.wo = nn.Linear(d, d, bias=False)
            self.norm2 = block_norm(cfg)
            self.ff = FeedForward(d)

    def heads(self, x_bnd: Tensor, time_b6d: Tensor, rope: Rope | None) -> tuple[Tensor, Tensor, Tensor]:
        """Queries (none of an unread stream), keys and values of n tokens, each [b, h, n, e]."""
        shift, scale = modulation(self.scale_shift_table[:2], time_b6d[:, :2])
        project, norms = (self.wkv, [self.k_norm]) if self.unread else (self.wqkv, [self.q_norm, self.k_norm])
        parts = project(norm_modulate(self.norm1, x_bnd, shift, scale)).unflatten(
            -1, (-1, len(norms) + 1, self.head_dim)
        )
        parts = parts.permute(3, 0, 2, 1, 4)
        *q, k = qk_norm(parts[:-1], torch.stack([norm.weight for norm in norms]), QK_EPS, rope, self.split)
        return (q[0] if q else k[:, :, :0]), k, parts[-1]

    def update(self, x_bnd: Tensor, time_b6d: Tensor, read_bnd: Tensor) -> Tensor:
        """The tokens after attention, which brought `read_bnd`, and after the feed-forward."""
        if self.unread:
            return x_bnd
        _, _, gate_msa, shift_mlp, scale_mlp, gate_mlp = modulation(self.scale_shift_table, time_b6d)
        x_bnd = gated_sum(x_bnd, gate_msa, self.wo(read_bnd))
        return gated_sum(x_bnd, gate_mlp, self.ff(norm_modulate(self.norm2, x_bnd, shift_mlp, scale_mlp)))


class JointBlock(nn.Module):
    """MMDiT with AdaLN-single: video and text keep weights of their own and meet in one attention over both.

    Text has no positions. The last block's text is read, and not updated.
    """

    def __init__(self, cfg: DiTConfig, last: bool) -> None:
        super().__init__()
        self.video = Stream(cfg)
        self.text = Stream(cfg, unread=last)
        self.attend = attention

    def forward(
        self, x_bsd: Tensor, time_b6d: Tensor, text_bld: Tensor, bias: Tensor | None, rope: Rope
    ) -> tuple[Tensor, Tensor]:
        """Both streams' tokens; `bias` is over the keys of the video, then of the text."""
        video = self.video.heads(x_bsd, time_b6d, rope)
        text = self.text.heads(text_bld, time_b6d, None)
        read = self.attend(*(torch.cat(pair, dim=2) for pair in zip(video, text, strict=True)), bias)
        n = x_bsd.shape[1]
        return self.video.update(x_bsd, time_b6d, read[:, :n]), self.text.update(text_bld, time_b6d, read[:, n:])
