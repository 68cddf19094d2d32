"""Segments with a few records, and what became of them."""

from __future__ import annotations

import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from stepvideo.telemetry import segments
from stepvideo.telemetry.frames import encode
from stepvideo.telemetry.schema import parts
from stepvideo.telemetry.segments import SegmentWriter


class Killed(BaseException):
    """Like kill -9: nothing of ours may run after it."""


def fill(folder: Path, rank: int, first: int, count: int, run: str = "a/b", a_segment: int = 5) -> None:
    """Counters and samples `first` to `first + count - 1` of a rank, in segments of a few."""
    who = {"run": run, "stage": "t2i", "rank": rank, "node": "n0", "attempt": 1}
    writer = SegmentWriter(folder / segments.FOLDER, f"r{rank}-{os.urandom(4).hex()}", who)
    for n in range(first, first + count):
        writer.append(encode("counter", [(n, "tokens", n, float(n))]))
        writer.append(encode("sample", [(n, f"clip-{rank}-{n}", "raw", 17, 32, 48, 6, "video", n)]))
        if n % a_segment == 0:
            writer.rotate()
    writer.close()


def stored(folder: Path, table: str = "counter") -> list[tuple]:
    found = [pq.ParquetFile(p).read() for p in parts(folder, table)]
    rows = pa.concat_tables(found).to_pylist() if found else []
    return sorted((r["run"], r["rank"], r["step"]) for r in rows)


def expected(*ranges: tuple[int, int, int], run: str = "a/b") -> list[tuple]:
    return sorted((run, rank, n) for rank, first, count in ranges for n in range(first, first + count))
