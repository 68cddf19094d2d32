"""A clip, small, in forms that every browser shows: what training would see of it, whatever the file's codec is.

Legend: T frames, H W sides in pixels.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from stepvideo.data.clips import Clip, read_clip
from stepvideo.data.video_io import encode_image, write_video


def poster(directory: Path, clip: Clip, side: int) -> bytes:
    """The clip's middle frame as JPEG, its shorter side at most `side` pixels. Raises as `read_clip`."""
    return encode_image(_small(read_clip(directory, clip, clip.frames // 2, 1), side)[0], ".jpg")


def moving(directory: Path, clip: Clip, side: int, seconds: float, path: Path, crf: int = 28) -> bytes:
    """Write the clip's first `seconds` to `path` as h264 mp4 without sound; its first frame as JPEG.

    Raises as `read_clip` and `write_video`.
    """
    fps = clip.fps or 25.0
    video = _small(read_clip(directory, clip, 0, min(clip.frames, max(1, round(seconds * fps)))), side)
    write_video(path, video, fps, crf)
    return encode_image(video[0], ".jpg")


def _small(video: np.ndarray, side: int) -> np.ndarray:
    """uint8 [T, H, W, 3] with sides that h264 takes: even, at least 2."""
    import cv2

    height, width = video.shape[1:3]
    scale = min(1.0, side / min(height, width))
    size = (max(2, round(width * scale / 2) * 2), max(2, round(height * scale / 2) * 2))
    return np.stack([cv2.resize(np.ascontiguousarray(f), size, interpolation=cv2.INTER_AREA) for f in video])
