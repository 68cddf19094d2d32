"""RoPE-3D: rotary positions over frames, rows and columns (report §4.3).

Tables are fp32 and cached. Angles are computed in fp32 as released: in fp64 they would be nearer to the definition, but
2e-6 further from the released model at position 60. Its cast of the angles to bf16, wrong by up to 0.1, is left out.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor


@lru_cache(maxsize=64)
def rope_tables(
    frames: int, height: int, width: int, split: tuple[int, int, int], device: torch.device, theta: float = 10000.0
) -> tuple[Tensor, Tensor]:
    """(cos, sin), each [frames·height·width, sum(split)] fp32, for tokens ordered frame-major, then row, then column.

    `split` gives the channels rotated by (frame, row, column). Inside each band channel j is paired with j + band/2;
    the sine of the first half carries the minus sign, so that rotation is `x * cos + swap(x) * sin`. Positions are 0,
    1, 2, …
    """
    cos, sin = [], []
    with torch.inference_mode(False):  # a table made in inference mode could not be used in training later
        axes = (torch.arange(n, dtype=torch.float32, device=device) for n in (frames, height, width))
        for positions, band in zip(torch.meshgrid(*axes, indexing="ij"), split, strict=True):
            inv_freq = 1.0 / theta ** (torch.arange(0, band, 2, dtype=torch.float32, device=device) / band)
            angles = positions.reshape(-1, 1) * inv_freq
            cos += [angles.cos()] * 2
            sin += [-angles.sin(), angles.sin()]
        return torch.cat(cos, -1), torch.cat(sin, -1)


@lru_cache(maxsize=64)
def swap_index(split: tuple[int, int, int], device: torch.device) -> Tensor:
    """[sum(split)] int64: the partner of every channel; applying it twice is the identity."""
    with torch.inference_mode(False):
        index, start = [], 0
        for band in split:
            index += [torch.arange(start + band // 2, start + band), torch.arange(start, start + band // 2)]
            start += band
        return torch.cat(index).to(device)


def swap_halves(x: Tensor, split: tuple[int, int, int]) -> Tensor:
    """Exchange the two halves of every band of the last axis."""
    parts = [half for band in x.split(split, dim=-1) for half in reversed(band.chunk(2, dim=-1))]
    return torch.cat(parts, dim=-1)


def apply_rope(x: Tensor, cos: Tensor, sin: Tensor, split: tuple[int, int, int]) -> Tensor:
    """Rotate `x` [b, s, heads, d] by tables [s, d]; computed in fp32, returned in the dtype of `x`."""
    x32 = x.float()
    return torch.addcmul(x32 * cos[:, None], swap_halves(x32, split), sin[:, None]).to(x.dtype)
