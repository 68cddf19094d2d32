"""Segment files: what a rank has recorded, in frames, until the consumer has made Parquet of it.

A segment is named after its rank, the recorder that writes it and its number, so no two are ever named alike. While it
grows it is `NAME.open`, and locked; then `NAME.seg`, which nobody changes. The lock ends with its process: an `.open`
that can be locked was left by one that is dead, and is whole up to its last frame.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from stepvideo.errors import ArtifactError
from stepvideo.telemetry.frames import Frame, encode_identity, frames

FOLDER = "segments"
FORGOTTEN_S = 3600  # an empty `.open` of this age was left by a process that died before its first frame


class SegmentWriter:
    """Appends frames to the segments of one recorder, one after the other. Not for several threads at once.

    Args:
        folder: `segments` of a telemetry folder; made when the first frame comes.
        most_bytes, most_s: a segment that has grown to this, or this old, is closed.
    """

    def __init__(
        self, folder: Path, name: str, identity: Mapping[str, str | int], most_bytes: int = 4 << 20, most_s: float = 20
    ) -> None:
        self.folder, self.name, self.identity = folder, name, identity
        self.most_bytes, self.most_s = most_bytes, most_s
        self.number = 0
        self._fd = -1

    def append(self, frame: bytes) -> None:
        """Write a frame whole or not at all.

        Raises:
            OSError: it was not written; the next call tries anew.
        """
        if self._fd < 0:
            self._open()
        try:
            _write(self._fd, frame)
        except OSError:
            try:
                os.ftruncate(self._fd, self._size)
                os.lseek(self._fd, self._size, os.SEEK_SET)
            except OSError:
                self.close()  # its end is torn: nothing may come after it
            raise
        self._size += len(frame)
        self.rotate(self.most_bytes, self.most_s)

    def rotate(self, most_bytes: int = 0, most_s: float = 0) -> None:
        """Close the segment if it has that many bytes or is that old."""
        if self._fd >= 0 and (self._size >= most_bytes or time.monotonic() - self._since >= most_s):
            self.close()

    def close(self) -> None:
        """Hand the segment over to the consumer; one that cannot be renamed is recovered by it later."""
        fd, self._fd = self._fd, -1
        if fd < 0:
            return
        with contextlib.suppress(OSError):
            os.fsync(fd)
        with contextlib.suppress(OSError):
            os.replace(self._path, self._path.with_suffix(".seg"))
        with contextlib.suppress(OSError):
            os.close(fd)  # and with it the lock

    def forget(self) -> None:
        """In a forked child: the file and its lock are the parent's."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def _open(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.number += 1
        path = self.folder / f"{self.name}-{self.number:06d}.open"
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)  # before the first byte: an empty one is nobody's to recover
            head = encode_identity(self.identity, time.time_ns())
            _write(fd, head)
        except OSError:
            os.close(fd)
            with contextlib.suppress(OSError):
                path.unlink()
            raise
        self._fd, self._path, self._size, self._since = fd, path, len(head), time.monotonic()


def _write(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def recover(folder: Path) -> list[Path]:
    """Close the segments of dead processes; those that were. Their torn ends are left, readers stop there."""
    found = []
    for path in sorted(folder.glob("*.open")):
        with contextlib.suppress(OSError), path.open("r+b") as f:  # on NFS only who may write may lock
            fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
            about = os.fstat(f.fileno())
            if about.st_ino != path.stat().st_ino:
                continue
            if about.st_size:
                found.append(path.replace(path.with_suffix(".seg")))
            elif time.time() - about.st_mtime > FORGOTTEN_S:
                path.unlink()
    return found


class Segment(NamedTuple):
    """A closed segment, read."""

    identity: dict[str, str | int]
    date: str
    """UTC day on which it was opened."""
    frames: Iterator[Frame]


def read(path: Path) -> Segment | None:
    """A segment; None if not even its first frame is whole.

    Raises:
        ArtifactError: it cannot be read.
    """
    try:
        found = frames(path.read_bytes())
    except OSError as e:
        raise ArtifactError(f"cannot read the telemetry segment {path}: {e.strerror or e}") from e
    first = next(found, None)
    if first is None:
        return None
    opened = datetime.fromtimestamp(first.head["opened_ns"] / 1e9, UTC)
    return Segment(first.head["identity"], f"{opened:%Y-%m-%d}", found)
