"""A moving picture of what a stage made, small enough to travel inside a page: a few samples, stills too, in a row."""

from __future__ import annotations

import base64
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np

from stepvideo.artifact import Artifact

SAMPLES, FRAMES = 4, 48  # at most
SIDES = (128, 64, 32)  # pixels of a sample's longer side, tried in this order until the picture is small enough
BYTES = 200_000  # of the GIF; Prefect keeps it in its database
FOLDERS = ("samples", "videos")  # of an artifact


@dataclass(frozen=True)
class Preview:
    """An animated GIF and the files, relative to the artifact, that it shows from left to right."""

    gif: bytes
    names: list[str]

    @property
    def url(self) -> str:
        return "data:image/gif;base64," + base64.b64encode(self.gif).decode()


def preview(artifact: Artifact) -> Preview | None:
    """None for an artifact without samples.

    Raises:
        ArtifactError: a sample cannot be read.
    """
    from stepvideo.data.video_io import read_image, read_video, video_fps

    paths = sorted(islice(_videos(artifact.out), SAMPLES))
    if not paths:
        return None
    videos = [read_video(p)[:FRAMES] if p.suffix == ".mp4" else read_image(p)[None] for p in paths]
    fps = (video_fps(paths[0]) if paths[0].suffix == ".mp4" else 0.0) or 8.0
    gif = b""
    for side in SIDES:
        gif = _gif(beside([_sized(v, side) for v in videos]), fps)
        if len(gif) <= BYTES:
            break
    return Preview(gif, [p.relative_to(artifact.out).as_posix() for p in paths]) if len(gif) <= BYTES else None


def beside(videos: list[np.ndarray]) -> np.ndarray:
    """Videos, uint8 [T, H, W, 3] each of its own size, next to each other: [max T, max H, sum W + gaps, 3].

    What ends early keeps its last frame; what is lower has black below.
    """
    frames, height = max(len(v) for v in videos), max(v.shape[1] for v in videos)
    padded = []
    for v in videos:
        longer = np.concatenate([v, np.repeat(v[-1:], frames - len(v), axis=0)])
        padded.append(np.pad(longer, ((0, 0), (0, height - v.shape[1]), (0, 2), (0, 0))))
    return np.concatenate(padded, axis=2)


def _videos(out: Path) -> Iterator[Path]:
    """In the order of their names, of a training's last step; it does not list more folders than it has to."""
    for name in FOLDERS:
        if (out / name).is_dir():
            steps = sorted((out / name).glob("step-*"))
            yield from _below(steps[-1] if steps else out / name)


def _below(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.iterdir()):
        if path.is_dir():
            yield from _below(path)
        elif path.suffix in (".mp4", ".png") and path.name != "sheet.png":
            yield path


def _sized(video: np.ndarray, side: int) -> np.ndarray:
    """Every nth pixel of what is larger, or every pixel several times of what is smaller."""
    longest = max(video.shape[1:3])
    if longest > side:
        step = -(-longest // side)
        return video[:, ::step, ::step]
    times = max(1, side // longest)
    return video.repeat(times, axis=1).repeat(times, axis=2)


def _gif(video: np.ndarray, fps: float) -> bytes:
    from stepvideo.data.video_io import write_gif

    with tempfile.TemporaryDirectory(prefix="preview-") as folder:
        path = Path(folder) / "preview.gif"
        write_gif(path, video, fps)
        return path.read_bytes()
