"""Small Parquet parts become large ones, while others read them.

A merged part is named after the first and the last batch in it; from its rename on `schema.parts` leaves out those that
it was made of, so every record is read once at any moment. They are removed some time later, for who has listed them
and is still reading.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from stepvideo.telemetry.schema import PARQUET, batches_of, part_name, whole_parts
from stepvideo.telemetry.ship import Hook, no_hook, write_parquet

if TYPE_CHECKING:
    import pyarrow as pa

SMALL = 64 << 20  # bytes: a part of this size is left alone
FEW = 16  # small parts in a folder that are no matter
KEPT_S = 600.0  # for readers: longer than any question takes
ROWS = 1 << 20  # of a row group, at least


def sweep(folder: Path, hook: Hook = no_hook, kept_s: float = 0.0) -> int:
    """Remove what was merged `kept_s` ago, and what killed processes left half written; how many files."""
    removed, now = 0, time.time()
    for day in (folder / PARQUET).glob("*/run=*/date=*"):
        whole = whole_parts(day)
        merged = set(day.glob("part-*.parquet")) - set(whole)
        fresh = [batches_of(p) for p in whole if now - p.stat().st_mtime < kept_s] if merged else []
        gone = [p for p in merged if not any(a <= batches_of(p)[0] <= b for a, b in fresh)]
        for path in [*sorted(gone), *day.glob(".*.tmp")]:
            path.unlink()
            removed += 1
            hook("swept")
    return removed


def compact(folder: Path, hook: Hook = no_hook, few: int = FEW, small: int = SMALL, until: int | None = None) -> int:
    """Merge neighbouring small parts wherever there are more than `few`; how many parts were made.

    Only of the process that ships `folder` (`ship.alone`).

    Args:
        until: the last batch that may be merged; None: any.
    """
    made = 0
    for day in sorted((folder / PARQUET).glob("*/run=*/date=*")):
        for group in _groups([p for p in whole_parts(day) if until is None or batches_of(p)[1] <= until], small):
            if len(group) > few:
                _merge(group, hook)
                made += 1
    return made


def _groups(parts: Sequence[Path], small: int) -> list[list[Path]]:
    """Neighbours that together are about as large as a part that is left alone."""
    groups: list[list[Path]] = []
    size = small
    for part in parts:
        length = part.stat().st_size
        if size + length > small:
            groups.append([])
            size = 0
        groups[-1].append(part)
        size += length
    return groups


def _merge(group: Sequence[Path], hook: Hook) -> None:
    (first, _), (_, last) = batches_of(group[0]), batches_of(group[-1])
    write_parquet(group[0].with_name(part_name(first, last)), _row_groups(group), hook)


def _row_groups(group: Sequence[Path]) -> Iterator[pa.Table]:
    """The records of all parts, so many together that a row group is worth its head."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    held: list[pa.Table] = []
    for path in group:
        held.append(pq.ParquetFile(path).read())
        if sum(map(len, held)) >= ROWS:
            yield pa.concat_tables(held)
            held = []
    if held:
        yield pa.concat_tables(held)
