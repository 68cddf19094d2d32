"""The one seam to files: local paths, s3://, memory://. Nothing else in the library imports fsspec.

Writes are atomic: to a temporary name beside the target, then renamed (local) or one whole PUT (object stores).
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from stepvideo.errors import ArtifactError

_SAMPLE = 2**20  # bytes
TRANSFERS = 8  # files at once
UPLOAD_PART = 16 << 20  # bytes; files of twice that and more go in parts
MAX_PARTS = 10_000  # that S3 takes


def is_remote(url: str | Path) -> bool:
    return "://" in str(url) and not str(url).startswith("file://")


def write_atomic(path: Path, data: bytes | str) -> None:
    """Write a local file whole or not at all; survives kill -9 and a full disk.

    Raises:
        ArtifactError: names the path and the operating system's reason.
    """
    path = Path(path)
    tmp = path.with_name(f".{path.name}.tmp-{uuid.uuid4().hex[:8]}")
    raw = data.encode() if isinstance(data, str) else data
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tmp.open("wb") as f:
            f.write(raw)
            f.flush()
            os.fsync(f.fileno())
        os.replace(tmp, path)
    except OSError as e:
        with contextlib.suppress(OSError):
            tmp.unlink()
        raise ArtifactError(f"cannot write {path}: {e.strerror or e}; free space or choose another store") from e


def write_json(path: Path, obj: Any) -> None:
    write_atomic(path, json.dumps(obj, indent=1, ensure_ascii=False, sort_keys=True) + "\n")


def read_json(path: Path) -> Any:
    """Raises ArtifactError if the file is absent or not JSON."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ArtifactError(f"{path} is missing") from None
    except (OSError, ValueError, RecursionError) as e:
        raise ArtifactError(f"{path} cannot be read as JSON: {e}") from e


def read_json_lines(path: Path) -> list[dict[str, Any]]:
    """The objects of a file with one a line; empty lines are skipped. Raises ArtifactError, which names the line."""
    try:
        lines = Path(path).read_text(encoding="utf-8").split("\n")  # U+2028 and the like belong to a text
    except (OSError, UnicodeDecodeError) as e:
        raise ArtifactError(f"{path} cannot be read as JSON lines: {e}") from e
    rows = []
    for n, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as e:
            raise ArtifactError(f"{path} line {n} is no JSON: {e}") from e
        if not isinstance(row, dict):
            raise ArtifactError(f"{path} line {n} is no JSON object")
        rows.append(row)
    return rows


def sha256_file(path: Path) -> str:
    with Path(path).open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def sampled_digest(folders: Iterable[Path]) -> str:
    """16 hex digits from the name, the size, the first and the last MiB of every file below these folders.

    Tells checkpoints of 100 GB apart in a second, also those of one training run. It is no checksum: a change in the
    middle of a large file escapes it.
    """
    h = hashlib.sha256()
    for folder in folders:
        for path in tree(folder):
            size = path.stat().st_size
            h.update(f"{path.relative_to(folder)}:{size}:".encode())
            with path.open("rb") as f:
                h.update(f.read(_SAMPLE))
                f.seek(max(size - _SAMPLE, 0))
                h.update(f.read(_SAMPLE))
    return h.hexdigest()[:16]


def tree(root: Path) -> list[Path]:
    """Every regular file below `root`, sorted by its relative POSIX path."""
    return sorted((p for p in Path(root).rglob("*") if p.is_file()), key=lambda p: p.relative_to(root).as_posix())


def checksums(root: Path) -> dict[str, dict[str, Any]]:
    """{relative path: {sha256, size}} of a local tree."""
    return {p.relative_to(root).as_posix(): {"sha256": sha256_file(p), "size": p.stat().st_size} for p in tree(root)}


def remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def link_or_copy(source: Path, target: Path) -> None:
    """A hard link where the file system allows one, which takes no space, else a copy. Raises ArtifactError."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source.resolve(), target)
    except OSError:  # another file system, or one without links
        try:
            shutil.copyfile(source, target)
        except OSError as e:
            raise ArtifactError(f"cannot put {source} at {target}: {e.strerror or e}") from e


def filesystem(url: str) -> Any:
    """The fsspec filesystem of a URL, made in the calling process (s3fs is not fork-safe)."""
    import fsspec

    return fsspec.core.url_to_fs(url)[0]


def upload(local: Path, url: str, names: Sequence[str]) -> int:
    """Copy files below `local` to below a URL or folder, the last of `names` after all others, as the commit mark.

    What lies there already, as its ETag tells, is not sent again. Returns the bytes sent.
    """
    fs = filesystem(url)
    there = _listing(url)
    root = url.rstrip("/")

    def put(name: str) -> int:
        path = local / name
        size = path.stat().st_size
        part = max(UPLOAD_PART, -(-size // MAX_PARTS))
        if name in there and there[name].get("ETag") and there[name]["ETag"].strip('"') == _etag(path, part):
            return 0
        if is_remote(url):
            fs.put_file(str(path), f"{root}/{name}", **_in_parts(fs, part))
        else:
            (Path(root) / name).unlink(missing_ok=True)
            link_or_copy(path, Path(root) / name)
        return size

    *first, last = names
    return sum(_at_once(put, first)) + put(last)


def download(url: str, local: Path, files: Mapping[str, Mapping[str, Any]]) -> None:
    """Fetch {name: {sha256, size}} from below a URL to a folder that appears as `local` when all are there.

    What an earlier call has fetched is kept.

    Raises:
        ArtifactError: a file came with another content.
    """
    fs = filesystem(url)
    tmp = local.with_name(f".{local.name}.coming")

    def get(name: str) -> None:
        path = tmp / name
        if path.exists() and sha256_file(path) == files[name]["sha256"]:
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        fs.get_file(f"{url.rstrip('/')}/{name}", str(path), **_in_parts(fs, UPLOAD_PART))
        if sha256_file(path) != files[name]["sha256"]:
            raise ArtifactError(f"{url}/{name} is damaged: its sha256 is not the manifest's; publish it again")

    tmp.mkdir(parents=True, exist_ok=True)
    _at_once(get, files)
    os.replace(tmp, local)


def read_whole(url: str) -> bytes | None:
    """A file's content; None if it is not there."""
    fs = filesystem(url)
    fs.invalidate_cache()
    try:
        return fs.cat_file(url)
    except FileNotFoundError as e:
        if "NoSuchBucket" in str(e.__cause__):
            raise
        return None


def _at_once(work: Callable[[str], Any], names: Iterable[str]) -> list[Any]:
    """`work` of every name, a few at a time; after the first failure nothing more is started."""
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(TRANSFERS) as pool:
        try:
            return list(pool.map(work, names))
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _in_parts(fs: Any, size: int) -> dict[str, int]:
    """How s3fs cuts a file; by itself it would hold 500 MB of each in memory."""
    return {"chunksize": size, "max_concurrency": 2} if "s3" in fs.protocol else {}


def _listing(url: str) -> dict[str, dict[str, Any]]:
    """{relative path: what fsspec says} of every file below a URL."""
    fs = filesystem(url)
    fs.invalidate_cache()
    root = fs._strip_protocol(url).rstrip("/") + "/"
    return {path.removeprefix(root): info for path, info in fs.find(root, detail=True).items()}


def _etag(path: Path, part: int) -> str:
    """The ETag that S3 gives a file that s3fs uploads: md5, or md5 of the md5s of its parts."""
    with path.open("rb") as f:
        if path.stat().st_size < 2 * part:
            return hashlib.file_digest(f, "md5").hexdigest()
        sums = [hashlib.md5(piece).digest() for piece in iter(lambda: f.read(part), b"")]
    return f"{hashlib.md5(b''.join(sums)).hexdigest()}-{len(sums)}"


def sizes(url: str | Path) -> dict[str, int]:
    """{relative path: bytes} of every file below a folder or a URL; nothing where there is none."""
    if not is_remote(url):
        root = Path(url)
        return {p.relative_to(root).as_posix(): p.stat().st_size for p in tree(root)}
    return {name: info["size"] for name, info in _listing(str(url)).items()}


def fetch(url: str, path: Path, sha256: str | None = None) -> None:
    """Download one file, whole or not at all; processes that fetch the same file do not disturb each other.

    Raises:
        ArtifactError: it is not there, or what came has another sha256.
    """
    tmp = path.with_name(f".{path.name}.tmp-{uuid.uuid4().hex[:8]}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        filesystem(url).get_file(url, str(tmp))
        if sha256 and (came := sha256_file(tmp)) != sha256:
            raise ArtifactError(f"{url} is damaged: its sha256 is {came}, not {sha256}; upload it again")
        os.replace(tmp, path)
    except OSError as e:
        raise ArtifactError(f"cannot fetch {url} to {path}: {e}") from e
    finally:
        tmp.unlink(missing_ok=True)


def read_range(url: str, start: int, end: int) -> bytes:
    """Bytes `start` … `end - 1` of a file in an object store, fewer where it ends. Raises ArtifactError."""
    try:
        return filesystem(url).cat_file(url, start, end)
    except OSError as e:
        raise ArtifactError(f"cannot read {url}: {e}") from e
