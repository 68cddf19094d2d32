"""Stage `raw`: a folder of videos and images becomes an artifact.

    files/           the media and their sidecars, hard-linked where the file system allows, else copied
    index.parquet    one row a media file: file (relative to files/), kind, sha256, size, error
    index.json       counts

Captions come with a `sidecars.jsonl` in any of the folders (format: `stepvideo.curation.captions`).
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

from stepvideo import storage
from stepvideo.config import digest
from stepvideo.errors import ArtifactError, StepVideoError
from stepvideo.stage import StageContext

VIDEO_SUFFIXES = (".mp4", ".mov", ".mkv", ".webm", ".avi", ".ts", ".m4v")
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg")
SIDECARS = "sidecars.jsonl"


def media_kind(name: str) -> str | None:
    """ "video", "image", or None for a file that is neither, by its suffix."""
    suffix = Path(name).suffix.lower()
    return "video" if suffix in VIDEO_SUFFIXES else "image" if suffix in IMAGE_SUFFIXES else None


def scan(folder: Path) -> list[dict[str, Any]]:
    """Every media file below `folder`, sorted: {file, kind, sha256, size, error}.

    Folders that are symbolic links are not entered, so a loop of links ends. A file that cannot be read is listed with
    its `error` and no hash.

    Raises:
        StepVideoError: the folder is missing, or has no video and no image.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise StepVideoError(f"raw folder {folder} {'is not a folder' if folder.exists() else 'does not exist'}")
    rows = []
    for path in _walk(folder):
        kind = media_kind(path.name)
        if kind is None:
            continue
        row: dict[str, Any] = {"file": path.relative_to(folder).as_posix(), "kind": kind, "error": ""}
        try:
            row |= {"sha256": storage.sha256_file(path), "size": path.stat().st_size}
        except OSError as e:
            row |= {"sha256": "", "size": 0, "error": e.strerror or str(e)}
        rows.append(row)
    if not rows:
        known = ", ".join(s[1:] for s in VIDEO_SUFFIXES + IMAGE_SUFFIXES)
        raise StepVideoError(f"raw folder {folder} has no video and no image; looked for {known}, in subfolders too")
    return rows


def content_digest(folder: Path) -> str:
    """sha256 in hex over the relative path and content of every media file and sidecar; for `RawConfig.content`.

    Raises StepVideoError as `scan` does.
    """
    return _digest(Path(folder), scan(folder))


def sidecars(folder: Path) -> list[str]:
    """Relative paths of the `sidecars.jsonl` files below `folder`, sorted."""
    return [p.relative_to(folder).as_posix() for p in _walk(folder) if p.name == SIDECARS]


def _digest(folder: Path, rows: list[dict[str, Any]]) -> str:
    said = [[s, storage.sha256_file(folder / s)] for s in sidecars(folder)]
    return digest({"media": [[r["file"], r["sha256"]] for r in rows], "sidecars": said})


def run(ctx: StageContext) -> dict[str, float]:
    """See the module docstring. Raises StepVideoError if the folder is missing, empty, or not what was planned with."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    place = ctx.config.runtime.path
    if not place:
        raise StepVideoError("raw: runtime.path is not set; give the folder of raw videos (raw=DIR)")
    folder = Path(place)
    rows = scan(folder)
    if ctx.config.content and _digest(folder, rows) != ctx.config.content:
        raise StepVideoError(f"raw folder {folder} changed since the run was planned; start the run again")
    names = [r["file"] for r in rows if not r["error"]] + sidecars(folder)
    for i, name in enumerate(names):
        link_or_copy(folder / name, ctx.out / "files" / name)
        ctx.sink.progress(i + 1, len(names), "files")
    schema = pa.schema(
        [
            ("file", pa.string()),
            ("kind", pa.string()),
            ("sha256", pa.string()),
            ("size", pa.int64()),
            ("error", pa.string()),
        ]
    )
    pq.write_table(pa.Table.from_pylist(rows, schema), ctx.out / "index.parquet")
    counts = {
        "videos": sum(r["kind"] == "video" for r in rows),
        "images": sum(r["kind"] == "image" for r in rows),
        "unreadable": sum(bool(r["error"]) for r in rows),
        "bytes": sum(r["size"] for r in rows),
    }
    storage.write_json(ctx.out / "index.json", counts)
    return {k: float(v) for k, v in counts.items()}


def link_or_copy(source: Path, target: Path) -> None:
    """Put `source`'s content at `target` without copying bytes where that is possible. Raises ArtifactError."""
    target.parent.mkdir(parents=True, exist_ok=True)
    real = source.resolve()
    try:
        os.link(real, target)
    except OSError:  # another file system, or one without hard links
        try:
            shutil.copyfile(real, target)
        except OSError as e:
            raise ArtifactError(f"cannot put {source} at {target}: {e.strerror or e}") from e


def _walk(folder: Path) -> list[Path]:
    """Files below `folder`, hidden ones left out, sorted by relative path."""
    found = []
    for root, folders, files in os.walk(folder, followlinks=False):
        folders[:] = [d for d in folders if not d.startswith(".")]
        found += [Path(root) / name for name in files if not name.startswith(".")]
    return sorted(found, key=lambda p: p.relative_to(folder).as_posix())
