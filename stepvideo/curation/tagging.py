"""Stage `tags`: what backends measure of every clip of a catalog, one side table a backend (§7.1).

    tables/NAME.parquet    clip_id and the backend's columns, in the catalog's order; its schema's metadata says which
                           backend and version, what a reader must know of it, and why it is empty if it is
    failed.parquet         clips that could not be measured, each with a reason and the tables where it has nulls

A clip is decoded once for all tables that miss it, and what was measured is kept for other runs (`tag_parts`). A clip
whose decoder dies or hangs costs that clip only, a network that does costs the clip's row of its own table.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from stepvideo import artifact
from stepvideo.curation.backends import Absent, Backend
from stepvideo.curation.backends.registry import backend
from stepvideo.curation.clip_frames import Window
from stepvideo.curation.config import HealthConfig
from stepvideo.curation.measure import DETAIL, LOST, Measured, Order, Table, lost, work
from stepvideo.curation.parts import run_parts
from stepvideo.curation.pool import run_chunks
from stepvideo.curation.tag_parts import TagParts, chunk_name, chunked, schema, table
from stepvideo.curation.tagging_config import TaggingConfig
from stepvideo.data.clips import Clip, load_catalog
from stepvideo.errors import ArtifactError, StepVideoError
from stepvideo.stage import StageContext

if TYPE_CHECKING:
    import pyarrow as pa


def run(ctx: StageContext) -> dict[str, float]:
    """Tag every clip of the input `curate`.

    Returns:
        clips, failed (those without a value in some table), and for each table the share of clips that have a value in
        its first column.

    Raises:
        StepVideoError: no clip of the kinds that are asked for; a backend that fails on every clip.
    """
    config: TaggingConfig = ctx.config
    root = ctx.inputs["curate"]
    clips = [c for c in load_catalog(root) if c.kind in config.kinds]
    if not clips:
        raise StepVideoError(f"tags: {root} has no {' or '.join(config.kinds)}; add its kinds to `kinds`")
    asked = {name: backend(name, chosen) for name, chosen in sorted(config.backends.items()) if chosen}
    tables, absent = _present(asked, config)
    for name, reason in absent.items() if ctx.rank == 0 else ():
        ctx.sink.event("backend_absent", table=name, reason=reason)
    parts = TagParts((ctx.shared or ctx.work) / "tags", ctx.work / "parts", list(tables.values()))
    names = _measure(ctx, clips, parts)
    if ctx.rank:
        return {}
    metrics = {"clips": float(len(clips))}
    failures: list[pa.Table] = []
    for name, made_by in asked.items():
        ids = [c.clip_id for c in clips]
        if name in tables:
            values, failed = _joined(parts, tables[name], names, ids)
            failures.append(failed)
        else:
            values = _nulls(made_by, ids)
        said = {"backend": config.backends[name], "version": made_by.version, "note": made_by.note}
        values = values.replace_schema_metadata(said | {"absent": absent.get(name, "")})
        _write(values, ctx.out / "tables" / f"{name}.parquet")
        metrics[name] = 1 - values.column(1).null_count / len(values)
    failed = _failed(failures, [c.clip_id for c in clips])
    for row in failed.to_pylist():
        ctx.sink.event("not_tagged", **row)
    _write(failed, ctx.out / "failed.parquet")
    return metrics | {"failed": float(len(failed["clip_id"].unique()))}


def _present(asked: dict[str, type[Backend]], config: TaggingConfig) -> tuple[dict[str, Table], dict[str, str]]:
    """The tables that can be made here, and why the others cannot."""
    found, absent = {}, {}
    for name, made_by in asked.items():
        weights, planned = config.runtime.weights.get(name, ""), config.contents.get(name, "")
        try:
            found[name] = table(name, made_by, config.backends[name], weights, config.samples, planned)
        except Absent as e:
            absent[name] = str(e)
    return found, absent


def _measure(ctx: StageContext, clips: list[Clip], parts: TagParts) -> list[str]:
    """Have every part made; their chunks' names, in the catalog's order."""
    config: TaggingConfig = ctx.config
    root = ctx.inputs["curate"]
    contents = artifact.file_digests(root, (c.file for c in clips))
    chunks = chunked([Order(c.clip_id, _window(c)) for c in clips], config.chunk)
    names = [chunk_name(chunk, contents) for chunk in chunks]
    orders = []
    for chunk, name in zip(chunks, names):
        missing = parts.missing(name)
        orders.append([replace(order, tables=missing) for order in chunk])
    how = {"root": root, "samples": config.samples}
    run_parts(
        ctx,
        orders,
        names,
        parts,
        functools.partial(work, **how),
        on_failure=functools.partial(_narrowed, health=config.health, **how),
        health=config.health,
        unit="clips",
    )
    return names


def _window(clip: Clip) -> Window:
    box = clip.crop or (0, 0, clip.width, clip.height)
    return Window(clip.file, clip.kind == "image", clip.first_frame, clip.frames, box, clip.fps)


def _narrowed(order: Order, reason: str, detail: str, health: HealthConfig, root: Path, samples: int) -> Measured:
    """Which tables lose a clip whose worker died or hung: all if decoding is to blame, else those that do it again."""
    if len(order.tables) < 2:
        return lost(order, reason, detail)

    def apart(orders: Sequence[Order]) -> list[Measured]:
        found = run_chunks(
            functools.partial(work, root=root, samples=samples),
            [(i, [o]) for i, o in enumerate(orders)],
            on_failure=lambda o, *why: lost(o, *why) if o.tables else None,
            workers=1,
            timeout_s=health.file_timeout_s,
            memory_mb=health.memory_limit_mb,
        )
        return [results[0] for _, results in found]

    if apart([replace(order, tables=())]) == [None]:
        return lost(order, reason, detail)
    single = apart([replace(order, tables=(t,)) for t in order.tables])
    return order.clip_id, {name: row for _, rows in single for name, row in rows.items()}


def _joined(parts: TagParts, t: Table, names: Sequence[str], ids: list[str]) -> tuple[pa.Table, pa.Table]:
    """A table's values for every clip, and its failures: clip_id, reason, detail, table."""
    import pyarrow as pa
    import pyarrow.compute as pc

    whole = pa.concat_tables([parts.read(t, name) for name in names]).combine_chunks()
    if whole["clip_id"].to_pylist() != ids:
        raise ArtifactError(f"tags: the parts of {t.name} are not of these clips; remove {parts.kept} and run again")
    missed = whole.filter(pc.is_valid(whole[LOST]))  # type: ignore[attr-defined]
    if len(missed) == len(ids) and set(missed[LOST].to_pylist()) == {"error"}:
        raise StepVideoError(f"tags: {t.name} fails on every clip, such as {ids[0]}: {missed[DETAIL][0].as_py()}")
    failed = missed.select(["clip_id", LOST, DETAIL]).append_column("table", pa.array([t.name] * len(missed)))
    return whole.drop_columns([LOST, DETAIL]), failed


def _nulls(made_by: type[Backend], ids: list[str]) -> pa.Table:
    import pyarrow as pa

    fields = schema(made_by.columns)
    nothing = [pa.nulls(len(ids), f.type) for f in list(fields)[1:]]
    return pa.Table.from_arrays([pa.array(ids), *nothing], schema=fields)


def _failed(found: list[pa.Table], ids: list[str]) -> pa.Table:
    """One row a clip and reason, with the tables that it is the reason for, in the catalog's order."""
    import pyarrow as pa

    tables: dict[tuple[str, str, str], list[str]] = {}
    for each in found:
        for row in each.to_pylist():
            tables.setdefault((row["clip_id"], row[LOST], row[DETAIL]), []).append(row["table"])
    place = {name: i for i, name in enumerate(ids)}
    rows = sorted(tables.items(), key=lambda r: (place[r[0][0]], r[1]))
    fields = [*((n, pa.string()) for n in ("clip_id", "reason", "detail")), ("tables", pa.list_(pa.string()))]
    return pa.Table.from_pylist(
        [dict(zip(("clip_id", "reason", "detail"), who)) | {"tables": which} for who, which in rows], pa.schema(fields)
    )


def _write(table: pa.Table, path: Path) -> None:
    import pyarrow.parquet as pq

    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, compression="zstd")
