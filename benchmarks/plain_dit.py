"""The released DiT written the way one writes it first, for `model_speed.py` to compare with: the modules of torch,
one statement an operation, no path for a particular device, size or dtype.

Same parameter names, so same weights.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stepvideo.models.config import DiTConfig


class PlainRMSNorm(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        x32 = x.float()
        return (x32 * torch.rsqrt(x32.pow(2).mean(-1, keepdim=True) + 1e-6)).to(x.dtype) * self.weight


def rope_3d(f: int, h: int, w: int, split: list[int]) -> list[tuple[Tensor, Tensor]]:
    """(cos, sin) of every band, each [f·h·w, 1, band]."""
    grid = torch.meshgrid(torch.arange(f), torch.arange(h), torch.arange(w), indexing="ij")
    tables = []
    for positions, band in zip(grid, split, strict=True):
        angles = positions.reshape(-1, 1) / 10000 ** (torch.arange(0, band, 2) / band)
        angles = torch.cat([angles, angles], dim=-1)[:, None]
        tables.append((angles.cos(), angles.sin()))
    return tables


def rotate(x: Tensor, tables: list[tuple[Tensor, Tensor]]) -> Tensor:
    """x [b, s, heads, d]."""
    bands = []
    for band, (cos, sin) in zip(x.split([cos.shape[-1] for cos, _ in tables], dim=-1), tables, strict=True):
        first, second = band.chunk(2, dim=-1)
        bands.append(band * cos + torch.cat([-second, first], dim=-1) * sin)
    return torch.cat(bands, dim=-1)


class PlainSelfAttention(nn.Module):
    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.wqkv = nn.Linear(dim, 3 * dim, bias=False)
        self.wo = nn.Linear(dim, dim, bias=False)
        self.q_norm = PlainRMSNorm(dim // heads)
        self.k_norm = PlainRMSNorm(dim // heads)

    def forward(self, x: Tensor, tables: list[tuple[Tensor, Tensor]]) -> Tensor:
        b, s, dim = x.shape
        q, k, v = self.wqkv(x).view(b, s, self.heads, -1).chunk(3, dim=-1)
        q, k = rotate(self.q_norm(q), tables), rotate(self.k_norm(k), tables)
        q, k, v = (y.transpose(1, 2) for y in (q, k, v))
        out = F.scaled_dot_product_attention(q, k, v)
        return self.wo(out.transpose(1, 2).reshape(b, s, dim))


class PlainCrossAttention(nn.Module):
    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.wq = nn.Linear(dim, dim, bias=False)
        self.wkv = nn.Linear(dim, 2 * dim, bias=False)
        self.wo = nn.Linear(dim, dim, bias=False)
        self.q_norm = PlainRMSNorm(dim // heads)
        self.k_norm = PlainRMSNorm(dim // heads)

    def forward(self, x: Tensor, text: Tensor, mask: Tensor) -> Tensor:
        b, s, dim = x.shape
        q = self.q_norm(self.wq(x).view(b, s, self.heads, -1))
        k, v = self.wkv(text).view(b, text.shape[1], self.heads, -1).chunk(2, dim=-1)
        q, k, v = (y.transpose(1, 2) for y in (q, self.k_norm(k), v))
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return self.wo(out.transpose(1, 2).reshape(b, s, dim))


class PlainGELU(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.proj = nn.Linear(dim, 4 * dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return F.gelu(self.proj(x), approximate="tanh")


class PlainFeedForward(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.net = nn.Sequential(PlainGELU(dim), nn.Dropout(0.0), nn.Linear(4 * dim, dim, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


class PlainBlock(nn.Module):
    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.scale_shift_table = nn.Parameter(torch.zeros(6, dim))
        self.norm1 = nn.LayerNorm(dim, eps=1e-5)
        self.attn1 = PlainSelfAttention(dim, heads)
        self.attn2 = PlainCrossAttention(dim, heads)
        self.norm2 = nn.LayerNorm(dim, eps=1e-5)
        self.ff = PlainFeedForward(dim)

    def forward(self, x: Tensor, time: Tensor, text: Tensor, mask: Tensor, tables: list) -> Tensor:
        shift1, scale1, gate1, shift2, scale2, gate2 = (self.scale_shift_table + time).chunk(6, dim=1)
        x = x + gate1 * self.attn1(self.norm1(x) * (1 + scale1) + shift1, tables)
        x = x + self.attn2(x, text, mask)
        return x + gate2 * self.ff(self.norm2(x) * (1 + scale2) + shift2)


class PlainEmbedder(nn.Module):
    def __init__(self, dim_in: int, dim: int) -> None:
        super().__init__()
        self.linear_1 = nn.Linear(dim_in, dim)
        self.linear_2 = nn.Linear(dim, dim)


class PlainDiT(nn.Module):
    """`DiT` of text to video with two text encoders; the arguments of its forward, in the same order."""

    def __init__(self, cfg: DiTConfig) -> None:
        super().__init__()
        self.cfg = cfg
        d = cfg.inner_dim
        self.scale_shift_table = nn.Parameter(torch.zeros(2, d))
        self.pos_embed = nn.Module()
        self.pos_embed.proj = nn.Conv2d(cfg.in_channels, d, cfg.patch_size, stride=cfg.patch_size)
        self.transformer_blocks = nn.ModuleList(PlainBlock(d, cfg.num_attention_heads) for _ in range(cfg.num_layers))
        self.norm_out = nn.LayerNorm(d, eps=1e-6, elementwise_affine=False)
        self.proj_out = nn.Linear(d, cfg.patch_size**2 * cfg.out_channels)
        self.adaln_single = nn.Module()
        self.adaln_single.emb = nn.Module()
        self.adaln_single.emb.timestep_embedder = PlainEmbedder(256, d)
        self.adaln_single.linear = nn.Linear(d, 6 * d)
        self.caption_norm = nn.LayerNorm(cfg.caption_channels[0], eps=1e-6, elementwise_affine=False)
        self.caption_projection = PlainEmbedder(cfg.caption_channels[0], d)
        self.clip_projection = nn.Linear(cfg.caption_channels[1], d)

    def forward(self, x: Tensor, llm: Tensor, clip: Tensor, t: Tensor, mask: Tensor) -> Tensor:
        b, f, _, h, w = x.shape
        p, d, dtype = self.cfg.patch_size, self.cfg.inner_dim, self.proj_out.weight.dtype
        x = self.pos_embed.proj(x.flatten(0, 1).to(dtype)).flatten(2).transpose(1, 2)
        x = x.reshape(b, -1, d)
        freqs = torch.exp(-math.log(10000) * torch.arange(128) / 128)
        angles = t[:, None] * 1000 * freqs
        embed = self.adaln_single.emb.timestep_embedder
        emb = embed.linear_2(F.silu(embed.linear_1(torch.cat([angles.cos(), angles.sin()], dim=-1).to(dtype))))
        time = self.adaln_single.linear(F.silu(emb)).view(b, 6, d)
        project = self.caption_projection
        text = F.gelu(project.linear_1(self.caption_norm(llm.to(dtype))), approximate="tanh")
        text = torch.cat([self.clip_projection(clip.to(dtype)), project.linear_2(text)], dim=1)
        longest = int(mask.sum(1).max())  # as released: texts are padded on the right
        text, mask = text[:, :longest], mask[:, None, None, :longest].bool()
        tables = [(cos.to(dtype), sin.to(dtype)) for cos, sin in rope_3d(f, h // p, w // p, self.cfg.rope_split)]
        for block in self.transformer_blocks:
            x = block(x, time, text, mask, tables)
        shift, scale = (self.scale_shift_table + emb[:, None]).chunk(2, dim=1)
        x = self.proj_out(self.norm_out(x) * (1 + scale) + shift)
        x = x.view(b, f, h // p, w // p, p, p, -1).permute(0, 1, 6, 2, 4, 3, 5)
        return x.reshape(b, f, -1, h, w)
