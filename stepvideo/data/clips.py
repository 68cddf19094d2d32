"""The clip catalog as every later stage reads it. `stepvideo.curation` writes it.

A catalog is a directory with `catalog.parquet`, one row a clip, and the media files that its `file` column names,
relative to the directory. A row is a window of a file: frames `first_frame` … `first_frame + frames - 1` in decoding
order, cropped to `crop`. So a source that needs nothing but the loss of its first and last frames is kept as it came.

`kind` is "clip" (a video clip), "frame" (one frame of a clip, for text-to-image training) or "image" (a still).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from stepvideo.data.caption_kinds import CAPTION_KINDS, LANGUAGES
from stepvideo.data.video_io import read_image, read_video
from stepvideo.errors import ArtifactError

if TYPE_CHECKING:
    import pyarrow as pa

CATALOG = "catalog.parquet"

Captions = dict[str, dict[str, list[str]]]  # kind → language → variants; absent kinds and languages are left out


@dataclass(frozen=True)
class Clip:
    """One row of the catalog.

    Attributes:
        clip_id: content address, 32 hex digits: equal for equal source bytes and frame range.
        kind: "clip", "frame" or "image".
        file: media file, relative to the catalog's directory.
        first_frame: index in the file of the clip's first frame.
        frames: length, in frames.
        height, width: pixels of what `read_clip` returns.
        fps: frames per second (0.0 for stills).
        crop: (x, y, width, height) in the stored file; None: the whole frame.
        captions: kind → language → variants.
        caption_source: "sidecar", "filename" or "none".
        attributes: one dict an object, from the sidecar's shot (the world's ground truth); None when unknown.
        tags: measured scores by name (saturation_mean, blur, motion_mean, …).
        source: the raw file's sha256, role and path, and the frame range in it.
        parent: of a "frame", the clip that it is from.
    """

    clip_id: str
    kind: str
    file: str
    first_frame: int
    frames: int
    height: int
    width: int
    fps: float
    crop: tuple[int, int, int, int] | None
    captions: Captions
    caption_source: str
    attributes: list[dict[str, Any]] | None
    tags: dict[str, float | None]
    source: dict[str, Any] = field(default_factory=dict)
    parent: str | None = None

    def caption_list(self, kinds: Iterable[str] = CAPTION_KINDS, languages: Iterable[str] = LANGUAGES) -> list[str]:
        """Every caption of the given kinds and languages, in a fixed order."""
        return [c for k in kinds for lang in languages for c in self.captions.get(k, {}).get(lang, [])]


def load_table(directory: Path) -> pa.Table:
    """The whole catalog as an Arrow table. Raises ArtifactError when it is missing or damaged."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = Path(directory) / CATALOG
    if not path.is_file():
        raise ArtifactError(f"{path} is missing; {directory} is not a curated catalog (the `curate` stage makes one)")
    try:
        return pq.read_table(path)
    except (OSError, pa.ArrowInvalid) as e:
        raise ArtifactError(f"{path} cannot be read: {e}") from e


def load_catalog(directory: Path, ids: Iterable[str] | None = None) -> list[Clip]:
    """The clips of a catalog; with `ids`, exactly those and in that order.

    Raises:
        ArtifactError: the catalog is missing, or holds no clip of one of the ids.
    """
    rows = load_table(directory).to_pylist()
    if ids is None:
        return [_clip(row) for row in rows]
    by_id = {row["clip_id"]: row for row in rows}
    try:
        return [_clip(by_id[i]) for i in ids]
    except KeyError as e:
        raise ArtifactError(f"{directory}/{CATALOG} has no clip {e}; the subset belongs to another catalog") from e


def load_ids(subset: Path) -> list[str]:
    """The clip ids of a subset file (`s1.parquet`, `sft_1.parquet`, `images.parquet`, …), in its order."""
    import pyarrow.parquet as pq

    if not Path(subset).is_file():
        have = sorted(p.stem for p in Path(subset).parent.glob("*.parquet"))
        raise ArtifactError(f"{subset} is missing; this artifact has {', '.join(have) or 'no subset'}")
    return pq.read_table(subset, columns=["clip_id"])["clip_id"].to_pylist()


def load_weights(subset: Path) -> dict[str, float]:
    """clip id → how often an epoch shows the clip, of a subset file that says so; else empty: each once."""
    import pyarrow.parquet as pq

    if not Path(subset).is_file() or "weight" not in pq.read_schema(subset).names:
        return {}
    table = pq.read_table(subset, columns=["clip_id", "weight"])
    return dict(zip(table["clip_id"].to_pylist(), table["weight"].to_pylist()))


def held_out(clip_id: str, share: float) -> bool:
    """Whether a clip belongs to the `share` of clips that no stage trains on: a function of its id alone."""
    return lot("held out", clip_id) < share


def lot(purpose: str, clip_id: str) -> float:
    """A uniform number in [0, 1) that is the clip's own for this purpose."""
    return int(hashlib.sha256(f"{purpose} {clip_id}".encode()).hexdigest()[:16], 16) / 2**64


def read_clip(directory: Path, clip: Clip, start: int = 0, frames: int | None = None) -> np.ndarray:
    """Frames `start` … of a clip as uint8 [T, H, W, 3] RGB, T = `frames` or what is left from `start` on.

    Raises:
        ValueError: the window leaves the clip.
        ArtifactError: the media file is missing or damaged.
    """
    count = clip.frames - start if frames is None else frames
    if start < 0 or count < 1 or start + count > clip.frames:
        raise ValueError(f"clip {clip.clip_id} has {clip.frames} frames; {start} to {start + count - 1} were asked for")
    path = Path(directory) / clip.file
    if clip.kind == "image":
        video = read_image(path)[None]
    else:
        video = read_video(path, clip.first_frame + start, count)
    if clip.crop:
        x, y, width, height = clip.crop
        video = video[:, y : y + height, x : x + width]
    return video


def _clip(row: Mapping[str, Any]) -> Clip:
    return Clip(
        clip_id=row["clip_id"],
        kind=row["kind"],
        file=row["file"],
        first_frame=row["first_frame"],
        frames=row["frames"],
        height=row["height"],
        width=row["width"],
        fps=row["fps"],
        crop=tuple(row["crop"]) if row["crop"] else None,
        captions=json.loads(row["captions"]),
        caption_source=row["caption_source"],
        attributes=json.loads(row["attributes"]) if row["attributes"] else None,
        tags={k.removeprefix("tag_"): v for k, v in row.items() if k.startswith("tag_")},
        source={k.removeprefix("source_"): v for k, v in row.items() if k.startswith("source_")},
        parent=row.get("parent"),
    )
