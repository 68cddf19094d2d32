"""Blocks of the released DiT (report §4.3): self-attention, cross-attention to the text, feed-forward.

Legend: b batch, s video tokens, l text tokens, d inner width.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from stepvideo.models.attention import attention
from stepvideo.models.config import DiTConfig
from stepvideo.models.layers import FeedForward, RMSNorm
from stepvideo.models.modulation import gated_sum, modulation, norm_modulate
from stepvideo.models.qk_norm import qk_norm

QK_EPS = 1e-6
BLOCK_NORM_EPS = 1e-5


class SelfAttention(nn.Module):
    """Full attention over all video tokens; the fused projection holds (q | k | v) inside each head.

    The number of heads is read from the projection, so that a shard of the heads works alone. `attend` is `attention`
    unless a parallel plan replaces it.
    """

    def __init__(self, cfg: DiTConfig) -> None:
        super().__init__()
        d, hd = cfg.inner_dim, cfg.attention_head_dim
        self.head_dim, self.split = hd, rope_split(cfg)
        self.attend: Callable[..., Tensor] = attention
        self.wqkv = nn.Linear(d, 3 * d, bias=False)
        self.wo = nn.Linear(d, d, bias=False)
        self.q_norm = RMSNorm(hd, QK_EPS)
        self.k_norm = RMSNorm(hd, QK_EPS)

    def forward(self, x_bsd: Tensor, rope: tuple[Tensor, Tensor]) -> Tensor:
        qkv = self.wqkv(x_bsd).unflatten(-1, (-1, 3, self.head_dim)).permute(3, 0, 2, 1, 4)
        qk, v = qkv.split((2, 1))  # its backward is one copy; that of indexing fills and adds zeros
        weights = torch.stack([self.q_norm.weight, self.k_norm.weight])
        q, k = qk_norm(qk, weights, QK_EPS, rope, self.split)
        return self.wo(self.attend(q, k, v.squeeze(0)))


class CrossAttention(nn.Module):
    """Video tokens read the text; (k | v) inside each head, QK-norm, no positions."""

    def __init__(self, cfg: DiTConfig) -> None:
        super().__init__()
        d, hd = cfg.inner_dim, cfg.attention_head_dim
        self.head_dim = hd
        self.wq = nn.Linear(d, d, bias=False)
        self.wkv = nn.Linear(d, 2 * d, bias=False)
        self.wo = nn.Linear(d, d, bias=False)
        self.q_norm = RMSNorm(hd, QK_EPS)
        self.k_norm = RMSNorm(hd, QK_EPS)

    def forward(self, x_bsd: Tensor, text_bld: Tensor, bias: Tensor | None) -> Tensor:
        q = self.wq(x_bsd).unflatten(-1, (1, -1, self.head_dim)).permute(2, 0, 3, 1, 4)
        k, v = self.wkv(text_bld).unflatten(-1, (-1, 2, self.head_dim)).permute(3, 0, 2, 1, 4).split(1)
        q = qk_norm(q, self.q_norm.weight[None], QK_EPS)[0]
        k = qk_norm(k, self.k_norm.weight[None], QK_EPS)[0]
        return self.wo(attention(q, k, v.squeeze(0), bias))


def block_norm(cfg: DiTConfig) -> nn.Module:
    """The norm before a branch, with weights of its own: LayerNorm as released, or RMSNorm as in the report."""
    if cfg.block_norm == "rms_norm":
        return RMSNorm(cfg.inner_dim, BLOCK_NORM_EPS)
    return nn.LayerNorm(cfg.inner_dim, eps=BLOCK_NORM_EPS)


def rope_split(cfg: DiTConfig) -> tuple[int, int, int]:
    time, height, width = cfg.rope_split
    return time, height, width


class Block(nn.Module):
    """Self-attention and feed-forward, modulated and gated by the timestep; cross-attention between them, neither."""

    def __init__(self, cfg: DiTConfig, self_attention: type[SelfAttention] = SelfAttention) -> None:
        super().__init__()
        d = cfg.inner_dim
        self.scale_shift_table = nn.Parameter(torch.zeros(6, d))
        self.norm1 = block_norm(cfg)
        self.attn1 = self_attention(cfg)
        self.attn2 = CrossAttention(cfg)
        self.norm2 = block_norm(cfg)
        self.ff = FeedForward(d)

    def forward(
        self, x_bsd: Tensor, time_b6d: Tensor, text_bld: Tensor, bias: Tensor | None, rope: tuple[Tensor, Tensor]
    ) -> Tensor:
        shift_msa, scale_msa, gate_msa, shift_mlp, scale_mlp, gate_mlp = modulation(self.scale_shift_table, time_b6d)
        h = norm_modulate(self.norm1, x_bsd, shift_msa, scale_msa)
        x_bsd = gated_sum(x_bsd, gate_msa, self.attn1(h, rope))
        x_bsd = x_bsd + self.attn2(x_bsd, text_bld, bias)
        h = norm_modulate(self.norm2, x_bsd, shift_mlp, scale_mlp)
        return gated_sum(x_bsd, gate_mlp, self.ff(h))
