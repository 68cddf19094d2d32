"""What image-to-video feeds beside the noisy latent: the first frame's latent, zeros after it (as released)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def cover_crop(image_bchw: Tensor, height: int, width: int) -> Tensor:
    """Resize (bilinear, antialiased) to cover `height` × `width`, then crop the centre: [b, c, height, width]."""
    h, w = image_bchw.shape[-2:]
    scale = max(height / h, width / w)
    size = (max(round(h * scale), height), max(round(w * scale), width))
    x = F.interpolate(image_bchw, size=size, mode="bilinear", align_corners=False, antialias=True)
    top, left = (size[0] - height) // 2, (size[1] - width) // 2
    return x[..., top : top + height, left : left + width]


def condition_latents(first_bchw: Tensor, frames: int) -> Tensor:
    """The condition [b, frames, c, h, w] of a first-frame latent [b, c, h, w]."""
    b, c, h, w = first_bchw.shape
    rest = torch.zeros(b, frames - 1, c, h, w, dtype=first_bchw.dtype, device=first_bchw.device)
    return torch.cat([first_bchw[:, None], rest], dim=1)
