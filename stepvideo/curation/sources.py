"""The media files of the input artifacts, in a fixed order, and how they are shared out in chunks."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from stepvideo import s3, storage
from stepvideo.curation.captions import read_sidecars
from stepvideo.curation.raw import INDEX, media_kind
from stepvideo.curation.records import Source, read_rows
from stepvideo.errors import StepVideoError

CHUNK_FILES = 32
CHUNK_BYTES = 8 << 20


def collect(inputs: Mapping[str, Path]) -> list[Source]:
    """Every media file of every input, sorted by role and path.

    An input from the `raw` stage has `index.parquet` and `files/`; any other is a tree of media files (`render`).

    Raises:
        StepVideoError: there is none, or a sidecar file is not in its format.
    """
    found = [s for role in sorted(inputs) for s in _of(role, Path(inputs[role]))]
    if not found:
        raise StepVideoError(f"curate: no video and no image in its inputs ({', '.join(sorted(inputs)) or 'none'})")
    return found


def _of(role: str, root: Path) -> list[Source]:
    if (root / INDEX).is_file():
        listed = read_rows(root / INDEX)
        media, url = root / "files", storage.read_json(root / "index.json").get("url", "")
    else:
        listed = [
            {
                "file": path.relative_to(root).as_posix(),
                "kind": kind,
                "sha256": storage.sha256_file(path),
                "size": path.stat().st_size,
                "error": "",
            }
            for path in storage.tree(root)
            if (kind := media_kind(path.name))
        ]
        media, url = root, ""
    shots = read_sidecars(media)
    bucket, prefix = s3.split(url) if url else ("", "")
    found = []
    for row in sorted(listed, key=lambda r: r["file"]):
        name = row["file"]
        origin = s3.Object(bucket, prefix + name, row["size"], row["etag"]) if url else None
        about = (row["kind"], row["sha256"], row["size"], row["error"], shots.get(name, []))
        found.append(Source(role, name, media / name, *about, origin))
    return found


def chunked(sources: list[Source]) -> list[list[Source]]:
    """Runs of small files together, large files alone. Depends on the files only."""
    chunks: list[list[Source]] = []
    room_files = room_bytes = 0
    for source in sources:
        if not chunks or room_files < 1 or source.size > room_bytes:
            chunks.append([])
            room_files, room_bytes = CHUNK_FILES, CHUNK_BYTES
        chunks[-1].append(source)
        room_files, room_bytes = room_files - 1, room_bytes - source.size
    return chunks
