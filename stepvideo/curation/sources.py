"""The media files of the input artifacts, in a fixed order, and how they are shared out in chunks."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from stepvideo import storage
from stepvideo.curation.captions import read_sidecars
from stepvideo.curation.raw import media_kind
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
    if (root / "index.parquet").is_file():
        media = root / "files"
        listed = [(r["file"], r["kind"], r["sha256"], r["size"], r["error"]) for r in read_rows(root / "index.parquet")]
    else:
        media = root
        listed = []
        for path in storage.tree(root):
            kind = media_kind(path.name)
            if kind:
                name = path.relative_to(root).as_posix()
                listed.append((name, kind, storage.sha256_file(path), path.stat().st_size, ""))
    shots = read_sidecars(media)
    return [
        Source(role, name, media / name, kind, sha256, size, error, shots.get(name, []))
        for name, kind, sha256, size, error in sorted(listed)
    ]


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
