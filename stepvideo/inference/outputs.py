"""A generated video as a file that knows how it was made: mp4 (or PNG for one frame), with a preview beside it."""

from __future__ import annotations

import json
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
from stepvideo.errors import StepVideoError

KINDS = {".mp4": "video", ".png": "image"}
PREVIEWS = ("png", "gif")


def check_name(path: Path, frames: int) -> None:
    """Raises StepVideoError when the name does not fit the number of frames, or its folder is not there."""
    suffix = ".png" if frames == 1 else ".mp4"
    if path.suffix.lower() != suffix:
        raise StepVideoError(f"cannot write {frames} frames to {path.name}; use a name that ends in {suffix}")
    if not path.absolute().parent.is_dir():
        raise StepVideoError(f"there is no folder {path.absolute().parent}; create it or choose another --out")


def write_output(
    path: Path, frames: np.ndarray, made_by: dict[str, Any], fps: float, preview: str = "", min_side: int = MIN_SIDE
) -> list[Path]:
    """Write uint8 [T, H, W, 3] and, if asked for, a preview (png: frames side by side; gif: moving).

    Args:
        made_by: settings and lineage; stored as JSON in the file's comment, the prompt as its title.
        min_side: smaller videos are enlarged by a whole factor, because players blur them; 0 keeps the size.

    Returns:
        The files, each written whole or not at all.
    """
    if preview and preview not in PREVIEWS:
        raise StepVideoError(f"preview={preview!r}: choose one of {', '.join(PREVIEWS)}")
    shown = enlarge(frames, min_side) if min_side else frames
    tags = {"title": made_by.get("prompt", ""), "comment": json.dumps(_stamped(made_by), ensure_ascii=False)}
    written = [path]
    if len(frames) == 1:
        write_image(path, shown[0], tags)
        return written
    if preview:
        written.append(path.with_suffix(f".{preview}"))
        if preview == "gif":
            write_gif(written[-1], shown, fps)
        else:
            write_image(written[-1], contact_sheet([frames], min_side=min(min_side, frames.shape[1]) or 1), tags)
    write_video(path, shown, fps, metadata=tags)
    return written


def _stamped(made_by: dict[str, Any]) -> dict[str, Any]:
    return {"stepvideo": __version__, **made_by}


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
