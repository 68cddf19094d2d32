"""A generated video as a file that knows how it was made: mp4 (or PNG for one frame), with a preview beside it."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from stepvideo import __version__
from stepvideo.data.show import MIN_SIDE, contact_sheet, enlarge
from stepvideo.data.video_io import (
    read_image_metadata,
    read_metadata,
    write_gif,
    write_image,
    write_video,
)
from stepvideo.errors import ConfigError, StepVideoError

PREVIEWS = ("png", "gif")
FPS = (0.1, 1000.0)
LONGEST_NAME = 240  # bytes: file systems take 255, and a temporary name is longer


@dataclass(frozen=True)
class Encoding:
    """How frames become an mp4; see `VideoWriter`. Another one than this counts as another setting."""

    crf: int = 12
    pix_fmt: str = "yuv420p"

    def __post_init__(self) -> None:
        if not 0 <= self.crf <= 51:
            raise ConfigError(f"crf={self.crf}: give 0 (lossless) to 51")
        if self.pix_fmt not in ("yuv420p", "yuv444p"):
            raise ConfigError(f"pix_fmt={self.pix_fmt!r}: choose yuv420p or yuv444p")

    @property
    def made_by(self) -> dict[str, Any]:
        """For the metadata, from which files made before this could be chosen lack it."""
        return {} if self == USUAL else asdict(self)


USUAL = Encoding()


def check_format(fps: float, preview: str) -> None:
    """Raises StepVideoError for what no file can be written with."""
    if not FPS[0] <= fps <= FPS[1]:
        raise StepVideoError(f"fps={fps}: give frames a second, {FPS[0]:g} to {FPS[1]:g}")
    if preview and preview not in PREVIEWS:
        raise StepVideoError(f"preview={preview!r}: choose one of {', '.join(PREVIEWS)}")


def complete(path: Path, frames: int) -> Path:
    """The name, with an ending that fits the number of frames if it has none.

    Raises:
        StepVideoError: the name does not fit the number of frames, or its folder is not there or cannot be written to.
    """
    suffix = ".png" if frames == 1 else ".mp4"
    path = path if path.suffix else path.with_suffix(suffix)
    if path.suffix.lower() != suffix:
        raise StepVideoError(f"cannot write {frames} frames to {path.name}; use a name that ends in {suffix}")
    if len(os.fsencode(path.name)) > LONGEST_NAME:
        raise StepVideoError(f"{path.name} is too long for the name of a file; give {LONGEST_NAME} bytes at most")
    folder = path.absolute().parent
    if not folder.is_dir():
        raise StepVideoError(f"there is no folder {folder}; create it or choose another --out")
    if not os.access(folder, os.W_OK) or path.is_dir():
        raise StepVideoError(f"{path} cannot be written; choose another --out")
    return path


def preview_path(path: Path, preview: str) -> Path | None:
    """Where the preview of a video lies; a still image needs none."""
    return path.with_suffix(f".{preview}") if preview and path.suffix.lower() == ".mp4" else None


def write_output(
    path: Path,
    frames: np.ndarray,
    made_by: dict[str, Any],
    fps: float,
    preview: str = "",
    min_side: int = MIN_SIDE,
    encoding: Encoding = USUAL,
) -> None:
    """Write uint8 [T, H, W, 3] and, if asked for, a preview (see `write_preview`), each whole or not at all.

    Args:
        made_by: settings and lineage; stored as JSON in the file's comment, the prompt as its title.
        min_side: smaller videos are enlarged by a whole factor, because players blur them; 0 keeps the size.
    """
    shown = enlarge(frames, min_side) if min_side else frames
    if len(frames) == 1:
        write_image(path, shown[0], _tags(made_by))
        return
    if beside := preview_path(path, preview):
        write_preview(beside, shown, made_by, fps)
    write_video(path, shown, fps, encoding.crf, encoding.pix_fmt, metadata=_tags(made_by))


def write_preview(path: Path, frames: np.ndarray, made_by: dict[str, Any], fps: float) -> None:
    """Write frames side by side (.png), or moving (.gif); the file knows how the video was made."""
    tags = _tags(made_by)
    if path.suffix == ".gif":
        write_gif(path, frames, fps, tags["comment"])
    else:
        write_image(path, contact_sheet([frames], min_side=1), tags)


def _tags(made_by: dict[str, Any]) -> dict[str, str]:
    comment = json.dumps({"stepvideo": __version__, **made_by}, ensure_ascii=False)
    return {"title": made_by.get("prompt", ""), "comment": comment}


def read_made_by(path: Path) -> dict[str, Any]:
    """How a file of ours was made; empty for anybody else's.

    Raises:
        ArtifactError: the file is damaged.
    """
    tags = read_metadata(path) if path.suffix.lower() == ".mp4" else read_image_metadata(path)
    try:
        made_by = json.loads(tags.get("comment", ""))
    except json.JSONDecodeError:
        return {}
    return made_by if isinstance(made_by, dict) and "stepvideo" in made_by else {}
