"""Clips as tensors: windows of frames, resized and centre-cropped, in [-1, 1].

Shape legend: B batch, T frames, C = 3 (RGB), H height, W width.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor

from stepvideo.data.clips import Clip, read_clip


def cover(video_THWC: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resize to cover `height` × `width` (area averaging when shrinking), centre crop; uint8 in, uint8 out."""
    _, h, w, _ = video_THWC.shape
    if (h, w) == (height, width):
        return video_THWC
    scale = max(height / h, width / w)
    nh, nw = max(height, round(h * scale)), max(width, round(w * scale))
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    y, x = (nh - height) // 2, (nw - width) // 2
    frames = [cv2.resize(f, (nw, nh), interpolation=method) for f in video_THWC]
    return np.stack([f[y : y + height, x : x + width] for f in frames])


def square(video_THWC: np.ndarray, size: int) -> np.ndarray:
    """`cover` of `size` × `size`."""
    return cover(video_THWC, size, size)


def window(directory: Path, clip: Clip, frames: int, height: int, width: int) -> np.ndarray:
    """The middle `frames` frames of a clip, uint8 [T, height, width, 3]. Raises as `read_clip`."""
    return cover(read_clip(directory, clip, (clip.frames - frames) // 2, frames), height, width)


def windows(directory: Path, clips: Sequence[Clip], frames: int, size: int) -> np.ndarray:
    """`window` of every clip, uint8 [B, T, size, size, 3]; clips shorter than `frames` are an error of the caller."""
    out = np.empty((len(clips), frames, size, size, 3), np.uint8)
    for i, clip in enumerate(clips):
        out[i] = window(directory, clip, frames, size, size)
    return out


def to_tensor(video_BTHWC: np.ndarray | Tensor) -> Tensor:
    """uint8 [B, T, H, W, 3] to float32 [B, T, 3, H, W] in [-1, 1], where it is."""
    return torch.as_tensor(video_BTHWC).permute(0, 1, 4, 2, 3).float().div_(127.5).sub_(1.0)


def to_uint8(video_BTCHW: Tensor) -> np.ndarray:
    """[-1, 1] float [B, T, 3, H, W] to uint8 [B, T, H, W, 3] (rounded, clamped)."""
    return video_BTCHW.float().clamp(-1, 1).add(1).mul(127.5).round().byte().permute(0, 1, 3, 4, 2).cpu().numpy()


def resize(video_BTCHW: Tensor, size: int) -> Tensor:
    """Area-average to `size` × `size`."""
    if video_BTCHW.shape[-1] == size:
        return video_BTCHW
    b = video_BTCHW.shape[0]
    return torch.nn.functional.interpolate(video_BTCHW.flatten(0, 1), size=size, mode="area").unflatten(0, (b, -1))
