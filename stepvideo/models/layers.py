"""Small layers of the DiT and of Step-LLM, with the released parameter names."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stepvideo.models.gelu import gelu_tanh


class RMSNorm(nn.Module):
    """x / rms(x) · weight over the last axis, computed in fp32, returned in the dtype of `x`."""

    def __init__(self, dim: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x.float(), self.weight.shape, self.weight.float(), self.eps).to(x.dtype)


def sinusoid(x: Tensor, dim: int = 256, max_period: float = 10000.0) -> Tensor:
    """[b] → [b, dim] fp32: cosines first, then sines, of x · max_period^(-i / (dim/2))."""
    half = dim // 2
    freqs = torch.exp(torch.arange(half, dtype=torch.float32, device=x.device) * (-math.log(max_period) / half))
    angles = x.float()[:, None] * freqs
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


class ScalarEmbedder(nn.Module):
    """Sinusoid, Linear, SiLU, Linear: one number a sample to a vector [b, dim]."""

    def __init__(self, dim: int, frequencies: int = 256) -> None:
        super().__init__()
        self.frequencies = frequencies
        self.linear_1 = nn.Linear(frequencies, dim)
        self.linear_2 = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        features = sinusoid(x, self.frequencies).to(self.linear_1.weight.dtype)
        return self.linear_2(F.silu(self.linear_1(features)))


class TimestepEmbedder(nn.Module):
    """The sum of the embeddings of t·1000 and, in the image-to-video form, of the raw motion score."""

    def __init__(self, dim: int, motion: bool) -> None:
        super().__init__()
        self.timestep_embedder = ScalarEmbedder(dim)
        if motion:
            self.motion_score_embedder = ScalarEmbedder(dim)

    def forward(self, t: Tensor, motion_score: Tensor | None) -> Tensor:
        emb = self.timestep_embedder(t.float() * 1000.0)
        return emb if motion_score is None else emb + self.motion_score_embedder(motion_score)


class AdaLNSingle(nn.Module):
    """One modulation for all blocks (report §4.3): t → (six vectors [b, 6, dim], the raw embedding [b, dim])."""

    def __init__(self, dim: int, motion: bool) -> None:
        super().__init__()
        self.emb = TimestepEmbedder(dim, motion)
        self.linear = nn.Linear(dim, 6 * dim)

    def forward(self, t: Tensor, motion_score: Tensor | None) -> tuple[Tensor, Tensor]:
        emb = self.emb(t, motion_score)
        return self.linear(F.silu(emb)).unflatten(-1, (6, -1)), emb


class TextProjection(nn.Module):
    """Linear, tanh-GELU, Linear."""

    def __init__(self, dim_in: int, dim: int) -> None:
        super().__init__()
        self.linear_1 = nn.Linear(dim_in, dim)
        self.linear_2 = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear_2(gelu_tanh(self.linear_1(x)))


class GELUProjection(nn.Module):
    """Linear without bias, tanh-GELU."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.proj = nn.Linear(dim, hidden, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return gelu_tanh(self.proj(x))


class FeedForward(nn.Module):
    """dim → 4·dim → dim, no biases; `net.1` is the place of the released dropout (0)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.net = nn.ModuleList([GELUProjection(dim, 4 * dim), nn.Identity(), nn.Linear(4 * dim, dim, bias=False)])

    def forward(self, x: Tensor) -> Tensor:
        return self.net[2](self.net[0](x))


class PatchEmbed(nn.Module):
    """A Conv2d of kernel = stride = patch on every frame, computed as one matrix product."""

    def __init__(self, channels: int, dim: int, patch: int) -> None:
        super().__init__()
        self.patch = patch
        self.proj = nn.Conv2d(channels, dim, patch, stride=patch)

    def forward(self, x_bfchw: Tensor) -> Tensor:
        """[b, f, c, h, w] → [b, f·h/p·w/p, dim]."""
        b, f, c, h, w = x_bfchw.shape
        p = self.patch
        patches = x_bfchw.reshape(b, f, c, h // p, p, w // p, p).permute(0, 1, 3, 5, 2, 4, 6)
        return F.linear(
            patches.reshape(b, f * (h // p) * (w // p), c * p * p), self.proj.weight.flatten(1), self.proj.bias
        )


def unpatchify(x_bsc: Tensor, frames: int, height: int, width: int, patch: int) -> Tensor:
    """[b, f·h·w, p·p·c] → [b, f, c, h·p, w·p] for a grid of h by w patches; the channels hold (row, column, c), c
    fastest."""
    x = x_bsc.unflatten(1, (frames, height, width)).unflatten(-1, (patch, patch, -1))
    return x.permute(0, 1, 6, 2, 4, 3, 5).flatten(5, 6).flatten(3, 4)
