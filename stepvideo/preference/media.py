"""Videos of a study in one form, so that nothing but the picture tells them apart.

Every source is resized and cropped to one size, resampled to one rate and length, and encoded alike without B-frames or
keyframes of the encoder's choice, so that all tables of the mp4 but the frames' sizes are the same. The rest of the
difference in size is filled inside `mdat`, which makes files of a group equal in every box's place and size.

Shape legend: T frames, H height, W width, 3 = RGB (uint8).
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from stepvideo.data.video_io import VideoWriter, iter_frames, read_image, video_fps
from stepvideo.errors import ArtifactError
from stepvideo.preference import mp4
from stepvideo.preference.config import MediaConfig

IMAGES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
VIDEOS = (".mp4", ".mov", ".mkv", ".webm", ".avi", ".gif")
STILL_S = 1.0  # an image is shown as a video of this length
STILL_FPS = 8.0


@dataclass(frozen=True)
class Shape:
    """What a source is: pixels, frames per second, frames."""

    height: int
    width: int
    fps: float
    frames: int


def probe(path: Path) -> Shape:
    """Decodes the file whole, so that what is broken is told before a study is made. Raises ArtifactError."""
    if path.suffix.lower() in IMAGES:
        height, width = read_image(path).shape[:2]
        return Shape(height, width, 0.0, 1)
    height = width = frames = 0
    for frame in iter_frames(path):
        height, width = frame.shape[:2]
        frames += 1
    fps = video_fps(path)
    if frames == 0 or fps <= 0:
        raise ArtifactError(f"{path} has {frames} frames at {fps:g} fps; give a video that plays")
    return Shape(height, width, fps, frames)


def common(config: MediaConfig, shapes: Sequence[Shape]) -> MediaConfig:
    """The form that all sources can be given: zeros of `config` filled with the smallest of them.

    Raises:
        ArtifactError: a source is shorter than the form that was asked for.
    """
    moving = [s for s in shapes if s.fps > 0]
    fps = config.fps or min((s.fps for s in moving), default=STILL_FPS)
    seconds = min((s.frames / s.fps for s in moving), default=STILL_S)
    frames = config.frames or max(1, int(seconds * fps + 1e-6))
    if frames > seconds * fps + 0.5:
        raise ArtifactError(
            f"media.frames={frames} at {fps:g} fps: the shortest source has {seconds:.2f} s; give fewer frames, or 0"
        )
    height = config.height or min(s.height for s in shapes) // 2 * 2
    width = config.width or min(s.width for s in shapes) // 2 * 2
    return replace(config, fps=fps, frames=frames, height=max(2, height), width=max(2, width))


def frames_of(path: Path, form: MediaConfig) -> np.ndarray:
    """A source in the form's size, rate and length: uint8 [T, H, W, 3]. Raises ArtifactError."""
    from stepvideo.data.frames import cover

    if path.suffix.lower() in IMAGES:
        return np.repeat(cover(read_image(path)[None], form.height, form.width), form.frames, 0)
    fps = video_fps(path)
    wanted = np.floor((np.arange(form.frames) + 0.5) * fps / form.fps).astype(int)  # in the middle of each frame's time
    kept: dict[int, np.ndarray] = {}
    last = None
    for i, frame in enumerate(iter_frames(path)):
        if i > wanted[-1]:
            break
        if i in wanted:
            kept[i] = last = cover(frame[None], form.height, form.width)[0]
    if last is None or len(kept) < len(set(wanted)):
        raise ArtifactError(f"{path} has fewer frames than a video of {form.frames} frames at {form.fps:g} fps needs")
    return np.stack([kept[i] for i in wanted])


def encode(path: Path, frames: np.ndarray, form: MediaConfig) -> None:
    """Write uint8 [T, H, W, 3] as the study's mp4: ftyp, moov, mdat and nothing else. Raises ArtifactError."""
    x264 = {
        "crf": str(form.crf), "g": str(form.gop), "keyint_min": str(form.gop), "sc_threshold": "0", "bf": "0",
        "level": "5.2",
    }  # fmt: skip
    with VideoWriter(path, form.height, form.width, form.fps, x264=x264, muxer={"write_btrt": "0"}) as writer:
        for frame in frames:
            writer.add(frame)
    path.write_bytes(mp4.plain(path.read_bytes()))


def equalise(paths: Sequence[Path]) -> None:
    """Give these files one length, that of the longest, and one date."""
    size = max(p.stat().st_size for p in paths)
    for path in paths:
        path.write_bytes(mp4.padded(path.read_bytes(), size))
        os.utime(path, (0, 0))
