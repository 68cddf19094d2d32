"""Clips to latents: what the cache and training on the fly do alike.

Legend: B clips, T frames, H W pixels, f latent frames, z latent channels, h w latent sides.
"""

from __future__ import annotations

import torch
from torch import Tensor

from stepvideo.data.config import clips_at_once
from stepvideo.data.frames import to_tensor
from stepvideo.diffusion.latent_stats import LatentStats
from stepvideo.diffusion.pipeline import supports_bf16
from stepvideo.models.video_vae import VideoVAE


@torch.no_grad()
def encode_pixels(vae: VideoVAE, pixels_BTHWC: Tensor, precision: str) -> Tensor:
    """uint8 [B, T, H, W, 3] to posterior moments [B, f, 2z, h, w] on the VAE's device, bfloat16 as they are cached.

    Large clips go through the VAE few at a time (`clips_at_once`): its activations outgrow the DiT's.
    """
    device = next(vae.parameters()).device
    bf16 = precision == "bf16-mixed" and supports_bf16(device)
    _, frames, height, width, _ = pixels_BTHWC.shape
    parts = pixels_BTHWC.split(clips_at_once(frames, height, width, vae.cfg.frame_len))
    with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
        return torch.cat([vae.encode_moments(to_tensor(part.to(device))).bfloat16() for part in parts])


def latents(moments_Bfzhw: Tensor, stats: LatentStats, eps_Bfzhw: Tensor | None) -> Tensor:
    """Normalised latents [B, f, z, h, w], float32, of posterior moments: a sample with `eps`, their mean without."""
    mean, logvar = moments_Bfzhw.float().chunk(2, dim=2)
    if eps_Bfzhw is not None:
        mean = mean + torch.exp(0.5 * logvar.clamp(-30, 20)) * eps_Bfzhw.to(mean)
    return stats.normalise(mean)
