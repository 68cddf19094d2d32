"""Stage `raw`: a folder of videos and images, or a bucket of them, becomes an artifact.

    files/           the sidecars; of a folder also the media, hard-linked where the file system allows, else copied
    index.parquet    one row a media file: file (relative to files/), kind, sha256, size, error, etag
    index.json       counts, and the URL of a bucket

The media of a bucket stay there: its artifact is the listing, and `curate` fetches each object as it comes to it.
Captions come with a `sidecars.jsonl` in any of the folders (format: `stepvideo.curation.captions`).
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Protocol

from stepvideo import s3, storage
from stepvideo.config import digest
from stepvideo.errors import StepVideoError
from stepvideo.stage import StageContext

VIDEO_SUFFIXES = (".mp4", ".mov", ".mkv", ".webm", ".avi", ".ts", ".m4v")
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg")
SIDECARS = "sidecars.jsonl"
INDEX = "index.parquet"
COLUMNS = ("file", "kind", "sha256", "size", "error", "etag")


def media_kind(name: str) -> str | None:
    """ "video", "image", or None for a file that is neither, by its suffix."""
    suffix = Path(name).suffix.lower()
    return "video" if suffix in VIDEO_SUFFIXES else "image" if suffix in IMAGE_SUFFIXES else None


class Place(Protocol):
    """Where raw media lie."""

    def media(self) -> list[dict[str, Any]]:
        """Every media file, sorted: {file, kind, sha256, size, error, etag}."""
        ...

    def sidecars(self) -> dict[str, str]:
        """The `sidecars.jsonl` files, sorted: relative path and what tells its content from another."""
        ...

    def bring(self, name: str, folder: Path) -> None:
        """Put a file below `folder`, under its own name."""
        ...


def place(where: str | Path) -> Folder | Bucket:
    """Raises StepVideoError if there is no such folder or bucket."""
    return Bucket(str(where)) if storage.is_remote(where) else Folder(Path(where))


def scan(where: str | Path) -> list[dict[str, Any]]:
    """`media()` of a folder or a URL.

    Raises:
        StepVideoError: it cannot be listed, or has no video and no image.
    """
    return _listed(place(where), where)


def content_digest(where: str | Path) -> str:
    """sha256 in hex that names the media and sidecars; for `RawConfig.content`.

    Of a folder it follows relative paths and contents; of a bucket its URL, and the names, sizes and ETags of a
    listing, so that no object is downloaded to plan.

    Raises StepVideoError as `scan` does.
    """
    found = place(where)
    return _digest(_listed(found, where), found.sidecars(), str(where))


class Folder:
    """A folder of this machine.

    Folders that are symbolic links are not entered, so a loop of links ends. A file that cannot be read is listed with
    its error and no hash.
    """

    def __init__(self, root: Path) -> None:
        if not root.is_dir():
            raise StepVideoError(f"raw folder {root} {'is not a folder' if root.exists() else 'does not exist'}")
        self.root = root
        self._files = _walk(root)

    def media(self) -> list[dict[str, Any]]:
        return [self._row(path, kind) for path in self._files if (kind := media_kind(path.name))]

    def sidecars(self) -> dict[str, str]:
        said = [path for path in self._files if path.name == SIDECARS]
        return {path.relative_to(self.root).as_posix(): storage.sha256_file(path) for path in said}

    def bring(self, name: str, folder: Path) -> None:
        storage.link_or_copy(self.root / name, folder / name)

    def _row(self, path: Path, kind: str) -> dict[str, Any]:
        row: dict[str, Any] = {"file": path.relative_to(self.root).as_posix(), "kind": kind, "error": "", "etag": ""}
        try:
            return row | {"sha256": storage.sha256_file(path), "size": path.stat().st_size}
        except OSError as e:
            return row | {"sha256": "", "size": 0, "error": e.strerror or str(e)}


class Bucket:
    """What lies below an s3:// URL, as one listing has it."""

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        prefix = s3.split(url)[1]
        named = {o.key.removeprefix(prefix): o for o in s3.listing(url)}
        self._objects = {name: o for name, o in named.items() if not name.endswith("/") and not _hidden(name)}

    def media(self) -> list[dict[str, Any]]:
        rows = []
        for name, found in self._objects.items():
            if kind := media_kind(name):
                row = {"file": name, "kind": kind, "sha256": "", "size": found.size, "error": "", "etag": found.etag}
                rows.append(row)
        return rows

    def sidecars(self) -> dict[str, str]:
        """Those whose name is a path below a folder; an object's name may be anything."""
        said = [n for n in self._objects if Path(n).name == SIDECARS and not {"", ".."} & set(n.split("/"))]
        return {name: self._objects[name].etag for name in said}

    def bring(self, name: str, folder: Path) -> None:
        try:
            s3.fetch(self._objects[name], folder / name)
        except s3.Unavailable as e:
            raise StepVideoError(f"{e.detail}; start the run again") from e


def run(ctx: StageContext) -> dict[str, float]:
    """See the module docstring. Raises StepVideoError if the place is missing, empty, or not what was planned with."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    where = ctx.config.runtime.path
    if not where:
        raise StepVideoError("raw: runtime.path is not set; give the folder of raw videos (raw=DIR)")
    found = place(where)
    rows, said = _listed(found, where), found.sidecars()
    if ctx.config.content and _digest(rows, said, where) != ctx.config.content:
        raise StepVideoError(f"raw folder {where} changed since the run was planned; start the run again")
    here = isinstance(found, Folder)
    names = [r["file"] for r in rows if here and not r["error"]] + list(said)
    for i, name in enumerate(names):
        found.bring(name, ctx.out / "files")
        ctx.sink.progress(i + 1, len(names), "files")
    schema = pa.schema([(n, pa.int64() if n == "size" else pa.string()) for n in COLUMNS])
    pq.write_table(pa.Table.from_pylist(rows, schema), ctx.out / INDEX)
    counts = {
        "videos": sum(r["kind"] == "video" for r in rows),
        "images": sum(r["kind"] == "image" for r in rows),
        "unreadable": sum(bool(r["error"]) for r in rows),
        "bytes": sum(r["size"] for r in rows),
    }
    storage.write_json(ctx.out / "index.json", counts | ({} if here else {"url": found.url}))
    return {k: float(v) for k, v in counts.items()}


def _listed(found: Place, where: str | Path) -> list[dict[str, Any]]:
    rows = found.media()
    if not rows:
        known = ", ".join(s[1:] for s in VIDEO_SUFFIXES + IMAGE_SUFFIXES)
        raise StepVideoError(f"raw folder {where} has no video and no image; looked for {known}, in subfolders too")
    return rows


def _digest(rows: list[dict[str, Any]], sidecars: dict[str, str], where: str) -> str:
    said = [[name, content] for name, content in sidecars.items()]
    if storage.is_remote(where):  # an ETag means something within its bucket only
        media = [[r["file"], r["size"], r["etag"]] for r in rows]
        return digest({"url": where.rstrip("/"), "media": media, "sidecars": said})
    return digest({"media": [[r["file"], r["sha256"]] for r in rows], "sidecars": said})


def _hidden(name: str) -> bool:
    return any(part.startswith(".") and part.strip(".") for part in name.split("/"))


def _walk(folder: Path) -> list[Path]:
    """Files below `folder`, hidden ones left out, sorted by relative path."""
    found = []
    for root, folders, files in os.walk(folder, followlinks=False):
        folders[:] = [d for d in folders if not d.startswith(".")]
        found += [Path(root) / name for name in files if not name.startswith(".")]
    return sorted(found, key=lambda p: p.relative_to(folder).as_posix())
