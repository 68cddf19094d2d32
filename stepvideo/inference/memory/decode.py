"""Decoding of latents in little memory: one temporal chunk after the other, each whole or in spatial tiles.

Chunks are independent in this VAE, so doing one at a time is exact. Tiles are not: norms and the middle attention see a
tile only; neighbouring tiles are blended linearly where they overlap.

Legend: B batch, T' latent frames, z latent channels, h and w latent sides; T frames, H and W pixels.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from stepvideo.errors import ConfigError
from stepvideo.models.video_vae import VideoVAE, mix_boundaries


@torch.no_grad()
def decode(vae: VideoVAE, z_BTCHW: Tensor, tile: int = 0, overlap: int = 0) -> Tensor:
    """`vae.decode` with the finished chunks in host memory: [B, T, 3, H, W] on the CPU, in the dtype of the latents.

    Args:
        tile: side of a tile in pixels, 0 for whole frames; overlap: pixels shared by neighbouring tiles.

    Raises:
        ConfigError: the tile or the overlap is no multiple of the VAE's spatial factor.
    """
    return torch.cat([chunk.cpu() for chunk in decode_chunks(vae, z_BTCHW, tile, overlap)], dim=1)


@torch.no_grad()
def decode_chunks(vae: VideoVAE, z_BTCHW: Tensor, tile: int = 0, overlap: int = 0) -> Iterator[Tensor]:
    """The same chunk by chunk, on the latents' device; chunk borders are mixed as `vae.decode` mixes them."""
    held = None
    length = vae.cfg.latent_len or z_BTCHW.shape[1]
    for part in z_BTCHW.split(length, dim=1):
        chunk = decode_tiled(vae, part, tile, overlap) if tile else vae.decode(part, boundary_mix=False)
        if held is not None:
            pair = mix_boundaries(torch.cat([held[:, -1:], chunk[:, :1]], dim=1), frame_len=1)
            held, chunk = torch.cat([held[:, :-1], pair[:, :1]], dim=1), torch.cat([pair[:, 1:], chunk[:, 1:]], dim=1)
            yield held
        held = chunk
    if held is not None:
        yield held


def decode_tiled(vae: VideoVAE, z_BTCHW: Tensor, tile: int, overlap: int) -> Tensor:
    """One chunk in tiles of `tile` pixels that share `overlap` pixels."""
    factor = vae.cfg.spatial_factor
    for name, value in (("vae_tile", tile), ("vae_overlap", overlap)):
        if value % factor:
            raise ConfigError(f"{name}={value} must be a multiple of this VAE's {factor} pixels a latent")
    rows, columns = (_windows(size, tile // factor, overlap // factor, factor) for size in z_BTCHW.shape[-2:])
    out = None
    for top, down_H in rows:
        for left, across_W in columns:
            h, w = len(down_H) // factor, len(across_W) // factor
            part = vae.decode(z_BTCHW[..., top : top + h, left : left + w], boundary_mix=False)
            if out is None:
                size = [factor * n for n in z_BTCHW.shape[-2:]]
                out = torch.zeros(*part.shape[:3], *size, dtype=torch.float32, device=part.device)
            y, x = top * factor, left * factor
            weight_HW = down_H[:, None].to(part.device) * across_W.to(part.device)
            out[..., y : y + len(down_H), x : x + len(across_W)].addcmul_(part.float(), weight_HW)
    assert out is not None
    return out.to(z_BTCHW.dtype)


def _windows(size: int, tile: int, overlap: int, factor: int) -> list[tuple[int, Tensor]]:
    """Along one side of `size` latents: the first latent of each tile, and the weights of its pixels, which fall
    linearly over the overlap; over all tiles they sum to 1 at every pixel. The last tile is moved back to full size."""
    tile = min(tile, size)
    starts = [*range(0, size - tile, tile - overlap), size - tile]
    pixel = torch.arange(tile * factor) + 0.5
    ramp = torch.minimum(pixel, pixel.flip(0)).div(max(1, overlap * factor)).clamp(max=1)
    weights = []
    total = torch.zeros(size * factor)
    for start in starts:
        w = ramp.clone()
        if start == 0:
            w[: len(w) // 2] = 1
        if start == size - tile:
            w[len(w) // 2 :] = 1
        total[start * factor : (start + tile) * factor] += w
        weights.append(w)
    return [(s, w / total[s * factor : (s + tile) * factor]) for s, w in zip(starts, weights)]


def seam_mask(vae: VideoVAE, height: int, width: int, tile: int, overlap: int) -> Tensor:
    """[height, width] bool: pixels that two or more tiles share."""
    factor = vae.cfg.spatial_factor
    counts = []
    for side in (height, width):
        count = torch.zeros(side, dtype=torch.int)
        for start, weights in _windows(side // factor, tile // factor, overlap // factor, factor):
            count[start * factor : start * factor + len(weights)] += 1
        counts.append(count > 1)
    return counts[0][:, None] | counts[1]


def seam_error(vae: VideoVAE, z_BTCHW: Tensor, tile: int, overlap: int) -> dict[str, float]:
    """What tiling changes, in units of the range [−1, 1]: greatest and mean absolute difference to the untiled decode,
    where tiles overlap and elsewhere; and the mean jump between neighbouring pixels there, with and without tiles."""
    whole = decode(vae, z_BTCHW).float()
    tiled = decode(vae, z_BTCHW, tile, overlap).float()
    seam = seam_mask(vae, whole.shape[-2], whole.shape[-1], tile, overlap)
    difference = (tiled - whole).abs()
    result = {}
    for name, where in (("seam", seam), ("elsewhere", ~seam)):
        if where.any():
            inside = difference[..., where]
            result |= {f"{name}_max": float(inside.max()), f"{name}_mean": float(inside.mean())}
            result |= {f"{name}_jump_{k}": _jump(v, where) for k, v in (("tiled", tiled), ("whole", whole))}
    return result


def _jump(video: Tensor, where_HW: Tensor) -> float:
    return float(video.diff(dim=-1).abs()[..., where_HW[:, 1:]].mean())
