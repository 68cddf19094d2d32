"""The three tables of telemetry: one record type each, their Arrow schemas and where their Parquet files lie.

Every record says who wrote it (`run`, `stage`, `rank`, `node`), in which life of the job (`attempt`, grows with every
restart) and at which `step` (the step being done, counted from 1; 0 before the first one). A step that is repeated
after a resume is in the tables twice, under two attempts: readers take the latest. Times are wall clock, UTC.

    folder/parquet/span/run=RUN/date=2026-11-21/part-*.parquet      likewise counter/, sample/

The columns in a file are those of the record types, `run` included: `run=` and `date=` (UTC day on which the segment
was opened) are for pruning only. Read with `read_parquet(glob, hive_partitioning = false)`.

This module needs no package until `arrow_schema` is called: the recorder of a rank imports it.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, get_type_hints
from urllib.parse import quote

if TYPE_CHECKING:
    import pyarrow as pa


class Span(NamedTuple):
    """A stretch of time: something began and ended."""

    run: str
    """The stage key or any name of the job; the same over all attempts."""
    stage: str
    rank: int
    node: str
    attempt: int
    step: int
    name: str
    """What was done: `data_wait`, `to_device`, `forward`, `backward`, `optimizer`, `checkpoint`, …, `step`."""
    parent: str
    """The span around it, empty at the top."""
    start_ns: int
    """Wall clock in nanoseconds since 1970."""
    duration_ns: int
    device: str
    """Whose clock measured: `cpu` the host's, `cuda` events on the GPU's stream."""


class Counter(NamedTuple):
    """A number at a moment: tokens of a micro-batch, bytes sent, records dropped."""

    run: str
    stage: str
    rank: int
    node: str
    attempt: int
    step: int
    name: str
    time_ns: int
    value: float


class Sample(NamedTuple):
    """A sample that training consumed."""

    run: str
    stage: str
    rank: int
    node: str
    attempt: int
    step: int
    sample_id: str
    source: str
    """Where the clip comes from: its data set, or the host of its address."""
    frames: int
    """Of the resolution bucket, in pixels: frames x height x width."""
    height: int
    width: int
    tokens: int
    """Tokens of the sample in the network."""
    kind: str
    """`image` or `video`."""
    time_ns: int


Record = Span | Counter | Sample
TABLES: dict[str, type[Span] | type[Counter] | type[Sample]] = {"span": Span, "counter": Counter, "sample": Sample}
FOLDER, PARQUET = "_telemetry", "parquet"  # the first in a store, the second in that


def arrow_schema(table: str) -> pa.Schema:
    """Columns of `table` with their Arrow types: int → int64, float → float64, str → string."""
    import pyarrow as pa

    arrow = {int: pa.int64(), float: pa.float64(), str: pa.string()}
    return pa.schema([(name, arrow[kind]) for name, kind in get_type_hints(TABLES[table]).items()])


def place_of(folder: Path) -> Path:
    """The telemetry folder itself, or the one in a store."""
    inside = folder / FOLDER
    return inside if inside.is_dir() else folder


def part_folder(folder: Path, table: str, run: str, date: str) -> Path:
    """Where the Parquet files of one table, run and UTC day (`2026-11-21`) lie below a telemetry folder."""
    return folder / PARQUET / table / f"run={quote(run, safe='')}" / f"date={date}"


def part_name(first: int, last: int) -> str:
    """The file of batches `first` to `last` of the consumer."""
    return f"part-{first:08d}-{last:08d}.parquet"


def batches_of(part: Path) -> tuple[int, int]:
    """First and last batch of a part."""
    _, first, last = part.stem.split("-")
    return int(first), int(last)


def parts(folder: Path, table: str, run: str | None = None) -> list[Path]:
    """The Parquet files of `table` below a telemetry folder, in which every record is once; of all runs or of one.

    Files whose batches a larger one has, too, have been merged into that and are about to be removed: who reads by a
    glob of his own may see their records twice.
    """
    days = sorted((folder / PARQUET / table).glob(f"run={quote(run, safe='') if run else '*'}/date=*"))
    return [part for day in days for part in whole_parts(day)]


def whole_parts(day: Path) -> list[Path]:
    """The files of one folder that are not merged into others, by their batches."""
    found, reached = [], 0
    for part in sorted(day.glob("part-*.parquet"), key=lambda p: (batches_of(p)[0], -batches_of(p)[1])):
        last = batches_of(part)[1]
        if last > reached:
            found.append(part)
            reached = last
    return found
