"""The consumer: closed segments become Parquet, each record once, whatever is killed when.

One process at a time ships a folder (`ship.lock`). It takes a batch of segments and says so in `ship.json`, the
journal, before it writes anything; parts are named after the batch, so writing them again replaces them:

    1 journal: batch n, these segments, "writing"     killed before it: nothing has happened
    2 a part of each table, run and day               … between 1 and 3: the same batch is written again
    3 journal: "written"                              … after it: only what is left of 4 is done
    4 the segments are removed

Every file is on the disk (fsync) before the next step. The journal also counts the records that were ever shipped.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stepvideo import storage
from stepvideo.errors import ArtifactError
from stepvideo.telemetry import segments
from stepvideo.telemetry.frames import decode
from stepvideo.telemetry.schema import TABLES, part_folder, part_name

if TYPE_CHECKING:
    import pyarrow as pa

JOURNAL, LOCK = "ship.json", "ship.lock"
BATCH = 32 << 20  # bytes of segments; about four times of it are in memory

Hook = Callable[[str], None]  # called with the name of every point at which a kill must do no harm


def no_hook(point: str) -> None: ...


@dataclass
class Journal:
    """What the consumer did last; `records` by table, of all batches that are written."""

    batch: int = 0
    state: str = "written"
    segments: list[str] = field(default_factory=list)
    records: dict[str, int] = field(default_factory=lambda: dict.fromkeys(TABLES, 0))
    damaged: int = 0
    """Segments of which not even the first frame could be read, and frames that hold no records."""

    @classmethod
    def read(cls, folder: Path) -> Journal:
        path = folder / JOURNAL
        return cls(**storage.read_json(path)) if path.exists() else cls()

    def write(self, folder: Path) -> None:
        storage.write_json(folder / JOURNAL, asdict(self))
        sync(folder)


@contextlib.contextmanager
def alone(folder: Path) -> Iterator[bool]:
    """Whether this process is the one that ships `folder`, as long as the context lasts."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / LOCK).open("w")
    except OSError as e:
        raise ArtifactError(f"cannot write to the telemetry folder {folder}: {e.strerror or e}") from e
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            yield False
            return
        yield True


def ship(folder: Path, hook: Hook = no_hook, batch: int = BATCH) -> int | None:
    """Ship all that is closed, and what dead processes left open; the number of records, None if another process is
    at it.

    Raises:
        ArtifactError: Parquet or the journal cannot be written; what is there is untouched.
    """
    with alone(folder) as mine:
        return ship_alone(folder, hook, batch) if mine else None


def ship_alone(folder: Path, hook: Hook = no_hook, batch: int = BATCH) -> int:
    """`ship` for who holds the lock."""
    journal = Journal.read(folder)
    shipped = _resume(folder, journal, hook)
    segments.recover(folder / segments.FOLDER)
    for names in _batches(folder / segments.FOLDER, batch):
        journal.batch, journal.state, journal.segments = journal.batch + 1, "writing", names
        journal.write(folder)
        hook("planned")
        shipped += _resume(folder, journal, hook)
    return shipped


def _batches(folder: Path, most: int) -> Iterator[list[str]]:
    names: list[str] = []
    size = 0
    for path in sorted(folder.glob("*.seg")):
        length = path.stat().st_size
        if names and size + length > most:
            yield names
            names, size = [], 0
        names.append(path.name)
        size += length
    if names:
        yield names


def _resume(folder: Path, journal: Journal, hook: Hook) -> int:
    """Bring the journal's batch to its end; the number of records that this has added."""
    paths = [folder / segments.FOLDER / name for name in journal.segments]
    shipped = 0
    if journal.state == "writing":
        if lost := [p.name for p in paths if not p.exists()]:
            print(f"telemetry: {folder}: {len(lost)} segments were removed by somebody: {lost[:3]}", file=sys.stderr)
        tables, damaged = _tables([p for p in paths if p.exists()])
        for (table, run, date), found in sorted(tables.items()):
            _write_part(part_folder(folder, table, run, date) / part_name(journal.batch, journal.batch), found, hook)
            journal.records[table] += sum(map(len, found))
            shipped += sum(map(len, found))
        journal.damaged += damaged
        journal.state = "written"
        hook("parts")
        journal.write(folder)
        hook("written")
    for path in paths:
        path.unlink(missing_ok=True)
        hook("removed")
    return shipped


def _tables(paths: Sequence[Path]) -> tuple[dict[tuple[str, str, str], list[pa.Table]], int]:
    """(table, run, day) → records; and how many segments are damaged from their start, or frames in themselves."""
    found: defaultdict[tuple[str, str, str], list[pa.Table]] = defaultdict(list)
    damaged = 0
    for path in paths:
        segment = segments.read(path)
        if segment is None:
            damaged += 1
            continue
        for frame in segment.frames:
            try:
                records = decode(frame, segment.identity)
            except (KeyError, ValueError) as e:  # of another version, say; the next ones may be read
                print(f"telemetry: {path.name}: a frame was left out: {e}", file=sys.stderr)
                damaged += 1
                continue
            found[frame.head["table"], str(segment.identity["run"]), segment.date].append(records)
    return found, damaged


def _write_part(path: Path, found: Sequence[pa.Table], hook: Hook) -> None:
    import pyarrow as pa

    write_parquet(path, [pa.concat_tables(found)], hook)


def write_parquet(path: Path, found: Sequence[pa.Table] | Iterator[pa.Table], hook: Hook = no_hook) -> None:
    """A Parquet file that is whole and on the disk, or not there; one row group of each table.

    No two times are alike: as differences they are read in a third of the time that a dictionary takes.

    Raises:
        ArtifactError: it cannot be written.
    """
    import pyarrow.parquet as pq

    tmp = path.with_name(f".{path.name}.tmp")
    tables = iter(found)
    first = next(tables)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        times = {name: "DELTA_BINARY_PACKED" for name in first.schema.names if name.endswith("_ns")}
        rest: Any = [name for name in first.schema.names if name not in times]  # the stubs know only a bool
        with pq.ParquetWriter(
            tmp, first.schema, compression="zstd", use_dictionary=rest, column_encoding=times
        ) as writer:
            writer.write_table(first)
            for table in tables:
                writer.write_table(table)
        hook("part")
        sync(tmp)
        os.replace(tmp, path)
        sync(path.parent)
    except OSError as e:
        with contextlib.suppress(OSError):
            tmp.unlink()
        raise ArtifactError(f"cannot write {path}: {e.strerror or e}; free space, telemetry waits meanwhile") from e
    hook("renamed")


def sync(path: Path) -> None:
    """Have a file, or the names in a folder, on the disk."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
