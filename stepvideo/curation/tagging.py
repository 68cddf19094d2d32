"""Stage `tags`: what backends measure of every clip of a catalog, one side table a backend (§7.1).

    tables/NAME.parquet    clip_id and the backend's columns, in the catalog's order; its schema's metadata says which
                           backend and version, what a reader must know of it, and why it is empty if it is
    failed.parquet         clips that could not be measured, each with a reason; their columns are null

A clip is decoded once for all backends. A clip whose decoder or network dies or hangs costs that clip only; finished
chunks are kept in `ctx.work`, so a killed run goes on to the same bytes.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from stepvideo import storage
from stepvideo.config import digest, dump, result_part
from stepvideo.curation.backends import Absent, Backend
from stepvideo.curation.backends.registry import backend
from stepvideo.curation.clip_frames import ClipFrames
from stepvideo.curation.parts import run_parts
from stepvideo.curation.records import Row
from stepvideo.curation.tagging_config import TaggingConfig
from stepvideo.data.clips import Clip, load_catalog
from stepvideo.data.video_io import iter_frames, read_image
from stepvideo.errors import ArtifactError, StepVideoError
from stepvideo.stage import StageContext

if TYPE_CHECKING:
    import pyarrow as pa

FAILED = "failed"


@dataclass(frozen=True)
class Table:
    """A side table that was asked for."""

    name: str
    backend: str
    weights: str

    @property
    def made_by(self) -> type[Backend]:
        return backend(self.name, self.backend)


def run(ctx: StageContext) -> dict[str, float]:
    """Tag every clip of the input `curate`.

    Returns:
        clips, failed, and for each table the share of clips that have a value in its first column.

    Raises:
        StepVideoError: no clip of the kinds that are asked for.
    """
    config: TaggingConfig = ctx.config
    root = ctx.inputs["curate"]
    clips = [c for c in load_catalog(root) if c.kind in config.kinds]
    if not clips:
        raise StepVideoError(f"tags: {root} has no {' or '.join(config.kinds)}; add its kinds to `kinds`")
    tables = [Table(t, name, config.runtime.weights.get(t, "")) for t, name in sorted(config.backends.items()) if name]
    absent = {t.name: reason for t in tables if (reason := _absent(t))}
    for name, reason in absent.items() if ctx.rank == 0 else ():
        ctx.sink.event("backend_absent", table=name, reason=reason)
    rows = [row for part in _measure(ctx, clips, [t for t in tables if t.name not in absent]) for row in part]
    if ctx.rank:
        return {}
    metrics = {"clips": float(len(clips))}
    for table in tables:
        made = _arrow(rows, table, absent.get(table.name, ""))
        _write(made, ctx.out / "tables" / f"{table.name}.parquet")
        metrics[table.name] = 1 - made.column(1).null_count / len(made)
    failed = [{"clip_id": r["clip_id"], **r[FAILED]} for r in rows if r[FAILED]]
    for row in failed:
        ctx.sink.event("not_tagged", **row)
    _write(_failed(failed), ctx.out / "failed.parquet")
    return metrics | {"failed": float(len(failed))}


def work(clips: list[Clip], root: Path, tables: list[Table], samples: int) -> list[Row]:
    """One row a clip: {clip_id, failed, table: {column: value}}; what a pool worker runs."""
    return [_tag(clip, root, tables, samples) for clip in clips]


def _measure(ctx: StageContext, clips: list[Clip], tables: list[Table]) -> list[list[Row]]:
    config: TaggingConfig = ctx.config
    root = ctx.inputs["curate"]
    chunks = [clips[i : i + config.chunk] for i in range(0, len(clips), config.chunk)]
    version = digest([result_part(dump(config)), [(t.name, t.made_by.version) for t in tables]])
    names = [f"{i:06d}-{digest([version, [c.clip_id for c in chunk]])[:16]}" for i, chunk in enumerate(chunks)]
    return run_parts(
        ctx,
        chunks,
        names,
        _Json(ctx.work / "parts"),
        functools.partial(work, root=root, tables=tables, samples=config.samples),
        on_failure=_lost,
        health=config.health,
        unit="clips",
    )


@dataclass(frozen=True)
class _Json:
    """A part as NAME.json."""

    folder: Path

    def there(self, name: str) -> bool:
        return (self.folder / f"{name}.json").exists()

    def write(self, name: str, results: list[Row]) -> None:
        storage.write_json(self.folder / f"{name}.json", results)

    def read(self, name: str) -> list[Row]:
        return storage.read_json(self.folder / f"{name}.json")


def _tag(clip: Clip, root: Path, tables: list[Table], samples: int) -> Row:
    try:
        seen = ClipFrames.of(clip.clip_id, clip.frames, _frames(clip, root), clip.fps, samples)
    except ArtifactError as e:
        return _lost(clip, "unreadable", str(e).replace(str(root), "curate"))
    return {"clip_id": clip.clip_id, FAILED: None} | {t.name: dict(_made(t)(seen)) for t in tables}


def _frames(clip: Clip, root: Path) -> Iterator[np.ndarray]:
    path = root / clip.file
    x, y, width, height = clip.crop or (0, 0, clip.width, clip.height)
    whole = [read_image(path)] if clip.kind == "image" else iter_frames(path, clip.first_frame, clip.frames)
    for frame in whole:
        yield frame[y : y + height, x : x + width, ::-1]


def _lost(clip: Clip, reason: str, detail: str) -> Row:
    return {"clip_id": clip.clip_id, FAILED: {"reason": reason, "detail": detail}}


@functools.cache
def _made(table: Table) -> Backend:
    """Once a worker: networks are loaded here."""
    return table.made_by(table.weights)


def _absent(table: Table) -> str:
    try:
        table.made_by(table.weights)
    except Absent as e:
        return str(e)
    return ""


def _arrow(rows: list[Row], table: Table, absent: str) -> pa.Table:
    import pyarrow as pa

    about = table.made_by
    said = {"backend": table.backend, "version": about.version, "note": about.note, "absent": absent}
    fields = [pa.field("clip_id", pa.string()), *(pa.field(n, _type(t)) for n, t in about.columns.items())]
    found: list[Mapping[str, Any]] = [r.get(table.name, {}) for r in rows]
    columns = [[r["clip_id"] for r in rows], *([f.get(n) for f in found] for n in about.columns)]
    schema = pa.schema(fields, metadata=said)
    return pa.Table.from_arrays([pa.array(c, f.type) for c, f in zip(columns, fields)], schema=schema)


def _type(name: str) -> pa.DataType:
    import pyarrow as pa

    inside = name.removeprefix("list<").removesuffix(">")
    kinds = {"double": pa.float64(), "float": pa.float32(), "int": pa.int64(), "int32": pa.int32()}
    kinds |= {"string": pa.string(), "bool": pa.bool_()}
    return pa.list_(kinds[inside]) if inside != name else kinds[name]


def _failed(rows: list[Row]) -> pa.Table:
    import pyarrow as pa

    return pa.Table.from_pylist(rows, pa.schema([(n, pa.string()) for n in ("clip_id", "reason", "detail")]))


def _write(table: pa.Table, path: Path) -> None:
    import pyarrow.parquet as pq

    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, compression="zstd")
