"""Pictures of clips as a server takes them: JPEGs in data URLs. Runs in the workers of `curation.pool`."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from stepvideo.curation.captioning.config import ModelConfig
from stepvideo.curation.tags import sample_positions
from stepvideo.data.clips import Clip
from stepvideo.data.video_io import iter_frames, read_image
from stepvideo.errors import ArtifactError


@dataclass(frozen=True)
class Pictures:
    """The pictures of a clip, or why there are none."""

    clip_id: str
    urls: list[str]
    reason: str = ""
    detail: str = ""


def work(clips: list[Clip], root: Path, config: ModelConfig) -> list[Pictures]:
    """One `Pictures` a clip; what a pool worker runs."""
    return [_pictures(clip, root, config) for clip in clips]


def lost(clip: Clip, reason: str, detail: str) -> Pictures:
    """For a clip whose decoder died ("crash") or hung ("timeout")."""
    return Pictures(clip.clip_id, [], f"decoder_{reason}", detail)


def sampled(root: Path, clip: Clip, count: int) -> list[np.ndarray]:
    """Up to `count` of the clip's frames, evenly spread, each uint8 [H, W, 3] RGB. Raises ArtifactError."""
    positions = sample_positions(clip.frames, count)
    path = root / clip.file
    x, y, width, height = clip.crop or (0, 0, clip.width, clip.height)
    whole = [read_image(path)] if clip.kind == "image" else iter_frames(path, clip.first_frame, positions[-1] + 1)
    return [frame[y : y + height, x : x + width] for i, frame in enumerate(whole) if i in positions]


def jpeg(frame: np.ndarray, side: int, quality: int) -> bytes:
    """An RGB frame as JPEG, scaled down until its longer side has `side` pixels."""
    import cv2

    height, width = frame.shape[:2]
    if max(height, width) > side:
        scale = side / max(height, width)
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        frame = cv2.resize(frame, size, interpolation=cv2.INTER_AREA)
    return cv2.imencode(".jpg", frame[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()


def _pictures(clip: Clip, root: Path, config: ModelConfig) -> Pictures:
    try:
        frames = sampled(root, clip, config.frames)
    except ArtifactError as e:
        return Pictures(clip.clip_id, [], "unreadable", str(e).replace(str(root), "curate"))
    jpegs = (jpeg(f, config.side, config.jpeg_quality) for f in frames)
    return Pictures(clip.clip_id, ["data:image/jpeg;base64," + base64.b64encode(j).decode() for j in jpegs])
