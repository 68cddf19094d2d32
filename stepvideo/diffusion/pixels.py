"""Frames as people store them, and as the VAE reads them."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def to_float(video_nthwc: Tensor) -> Tensor:
    """uint8 [n, T, H, W, 3] to [n, T, 3, H, W] in [−1, 1]."""
    return video_nthwc.permute(0, 1, 4, 2, 3).float() / 127.5 - 1


def to_uint8(video_ntchw: Tensor) -> np.ndarray:
    """[n, T, 3, H, W] in [−1, 1] to uint8 [n, T, H, W, 3], rounded."""
    x = video_ntchw.float().clamp(-1, 1).add(1).mul(127.5).round()
    return x.to(torch.uint8).permute(0, 1, 3, 4, 2).contiguous().cpu().numpy()
