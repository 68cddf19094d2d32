"""What image-to-video feeds beside the noisy latent: the first frame's latent, zeros after it (as released)."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

FAR = 8  # times as long as the crop: what lies beyond cannot reach it


def cover_crop(image_bchw: Tensor, height: int, width: int) -> Tensor:
    """Resize (bilinear, antialiased) to cover `height` × `width`, then crop the centre: [b, c, height, width]."""
    image_bchw = _without_far_ends(image_bchw, height, width)
    h, w = image_bchw.shape[-2:]
    scale = max(height / h, width / w)
    size = (max(round(h * scale), height), max(round(w * scale), width))
    x = F.interpolate(image_bchw, size=size, mode="bilinear", align_corners=False, antialias=True)
    top, left = (size[0] - height) // 2, (size[1] - width) // 2
    return x[..., top : top + height, left : left + width]


def _without_far_ends(image_bchw: Tensor, height: int, width: int) -> Tensor:
    """The centre of an image that is many times longer than the crop: resized whole, 1×20000 pixels take 70 GB."""
    h, w = image_bchw.shape[-2:]
    top, left = (h - FAR * math.ceil(w * height / width)) // 2, (w - FAR * math.ceil(h * width / height)) // 2
    top, left = max(top, 0), max(left, 0)
    return image_bchw[..., top : h - top, left : w - left]


def condition_latents(first_bchw: Tensor, frames: int) -> Tensor:
    """The condition [b, frames, c, h, w] of a first-frame latent [b, c, h, w]."""
    b, c, h, w = first_bchw.shape
    rest = torch.zeros(b, frames - 1, c, h, w, dtype=first_bchw.dtype, device=first_bchw.device)
    return torch.cat([first_bchw[:, None], rest], dim=1)
