"""Stage `curate`: raw videos and images → catalog of tagged, captioned single-shot clips (§7.1).

    catalog.parquet      one row a clip, single frame or still (columns: `records.clip_schema`; reader: `data.clips`)
    files.parquet        one row a source file: health, shots, what became of it
    quarantine.parquet   the rows of files.parquet that gave nothing, each with its reason
    funnel.json          counts from files to clips
    media/               the catalog's media files

Finished chunks of files are kept in `ctx.work`, so a killed run goes on where it was, to the same bytes. The result
does not depend on the number of workers or ranks.
"""

from __future__ import annotations

import functools
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stepvideo import storage
from stepvideo.config import digest, dump, result_part
from stepvideo.curation.config import CurateConfig
from stepvideo.curation.cut import process
from stepvideo.curation.fetching import with_bytes
from stepvideo.curation.parts import run_parts
from stepvideo.curation.records import (
    Result,
    Row,
    Source,
    clip_schema,
    files_schema,
    quarantined,
    read_rows,
    write_table,
)
from stepvideo.curation.sources import chunked, collect
from stepvideo.data.clips import CATALOG
from stepvideo.errors import StepVideoError
from stepvideo.stage import StageContext

Part = tuple[list[Row], list[Row]]  # file rows, clip rows


def run(ctx: StageContext) -> dict[str, float]:
    """Curate every file of `ctx.inputs`.

    Returns:
        files, quarantined, clips, images, frames (single ones), hours (of clips), captioned (share of rows).

    Raises:
        StepVideoError: no input file, or not one of them gave a clip or still.
    """
    config: CurateConfig = ctx.config
    sources = collect(ctx.inputs)
    unique, repeats = _first_of_each(sources)
    parts = _curate(ctx, chunked(unique))
    if ctx.rank:
        return {}
    files = [row for part in parts for row in part[0]] + [r.file for r in repeats]
    clips = [row for part in parts for row in part[1]]
    _nothing_lost(sources, files)
    files.sort(key=lambda r: (r["role"], r["file"]))
    clips.sort(key=lambda r: (r["source_role"], r["source_file"], r["source_start"], r["kind"]))
    files, clips = _once(files, clips)
    quarantine = [r for r in files if r["status"] == "quarantined"]
    if not clips:
        reasons = ", ".join(f"{n} {reason}" for reason, n in Counter(r["reason"] for r in quarantine).most_common())
        raise StepVideoError(f"curate: none of {len(files)} files gave a clip or image ({reasons})")
    _publish(ctx, sources, clips)
    write_table(clips, clip_schema(), ctx.out / CATALOG)
    write_table(files, files_schema(), ctx.out / "files.parquet")
    write_table(quarantine, files_schema(), ctx.out / "quarantine.parquet")
    funnel = _funnel(files, clips, config)
    storage.write_json(ctx.out / "funnel.json", funnel)
    for row in quarantine:
        ctx.sink.event("quarantined", role=row["role"], file=row["file"], reason=row["reason"], detail=row["detail"])
    kinds = funnel["kinds"]
    return {
        "files": float(len(files)),
        "quarantined": float(len(quarantine)),
        "clips": float(kinds["clip"]),
        "images": float(kinds["image"]),
        "frames": float(kinds["frame"]),
        "hours": float(sum(r["frames"] / r["fps"] for r in clips if r["fps"]) / 3600),
        "captioned": sum(r["caption_source"] == "sidecar" for r in clips) / len(clips),
    }


def work(items: list[Source], config: CurateConfig, root: Path) -> list[Result]:
    """A chunk of files; what a pool worker runs."""
    return with_bytes(items, root, functools.partial(_curated, config=config, root=root))


def _curated(source: Source, config: CurateConfig, root: Path) -> Result:
    """`process`, unless the file is no longer the one that was listed: what was read may be of either."""
    result = process(source, config, root)
    if source.error or source.origin:  # an object's bytes are a copy of our own
        return result
    try:
        found = storage.sha256_file(source.path)
    except OSError:
        found = ""
    if found == source.sha256:
        return result
    return quarantined(source, "changed", "its bytes are no longer those that were listed; is it being written to?")


def _curate(ctx: StageContext, chunks: list[list[Source]]) -> list[Part]:
    """Every chunk's rows, from `ctx.work` where an earlier attempt finished it."""
    config: CurateConfig = ctx.config
    version = digest(result_part(dump(config)))
    names = [_part_name(i, chunk, version) for i, chunk in enumerate(chunks)]
    parts = _Tables(ctx.work / "parts")
    run_parts(
        ctx,
        chunks,
        names,
        parts,
        functools.partial(work, config=config, root=ctx.work),
        on_failure=quarantined,
        health=config.health,
        unit="files",
    )
    return [] if ctx.rank else [parts.read(name) for name in names]


@dataclass(frozen=True)
class _Tables:
    """A part as two Parquet files, NAME.files and NAME.clips; the first is written last."""

    folder: Path

    def there(self, name: str) -> bool:
        return self._path(name, "files").exists()

    def write(self, name: str, results: list[Result]) -> None:
        write_table([c for r in results for c in r.clips], clip_schema(), self._path(name, "clips"))
        write_table([r.file for r in results], files_schema(), self._path(name, "files"))

    def read(self, name: str) -> Part:
        return read_rows(self._path(name, "files")), read_rows(self._path(name, "clips"))

    def _path(self, name: str, what: str) -> Path:
        return self.folder / f"{name}.{what}.parquet"


def _part_name(i: int, chunk: list[Source], version: str) -> str:
    content: list[Any] = [[s.role, s.file, s.sha256 or (s.origin and s.origin.etag), s.error, s.shots] for s in chunk]
    return f"{i:06d}-{digest([version, content])[:16]}"


def _first_of_each(sources: list[Source]) -> tuple[list[Source], list[Result]]:
    """Different contents once each; a repeated one is quarantined under its own name, so that it is not lost."""
    first: dict[str, Source] = {}
    repeats = []
    for s in sources:
        if not (s.size and s.sha256):
            continue
        if s.sha256 in first:
            repeats.append(_repeat(s, first[s.sha256].role, first[s.sha256].file))
        else:
            first[s.sha256] = s
    gone = {(r.file["role"], r.file["file"]) for r in repeats}
    return [s for s in sources if (s.role, s.file) not in gone], repeats


def _once(files: list[Row], clips: list[Row]) -> tuple[list[Row], list[Row]]:
    """The same for what came from a bucket, whose contents are known only now."""
    first: dict[str, Row] = {}
    kept: list[Row] = []
    gone = set()
    for row in files:
        same = first.setdefault(row["sha256"], row) if row["size"] and row["sha256"] else row
        if same is not row and row["reason"] != "duplicate":
            gone.add((row["role"], row["file"]))
            again = Source(row["role"], row["file"], Path(), row["kind"], row["sha256"], row["size"])
            row = _repeat(again, same["role"], same["file"]).file
        kept.append(row)
    return kept, [c for c in clips if (c["source_role"], c["source_file"]) not in gone]


def _repeat(source: Source, role: str, file: str) -> Result:
    return quarantined(source, "duplicate", f"the same bytes as {role}/{file}")


def _nothing_lost(sources: list[Source], files: list[Row]) -> None:
    listed = sorted((r["role"], r["file"]) for r in files)
    if listed != sorted((s.role, s.file) for s in sources) or not all(
        r["status"] in ("accepted", "quarantined") for r in files
    ):
        raise AssertionError(f"{len(sources)} files went in and {len(listed)} came out of the curation")


def _publish(ctx: StageContext, sources: list[Source], clips: list[Row]) -> None:
    """Link the media files that the catalog names into the artifact."""
    by_content = {s.sha256: s.path for s in sources if s.sha256}
    for name, row in {row["file"]: row for row in clips}.items():
        if row["stored"] == "source":
            ctx.expected[name] = row["source_sha256"]
        here = by_content.get(row["source_sha256"]) if row["stored"] == "source" else None
        storage.link_or_copy(here or ctx.work / name, ctx.out / name)


def _funnel(files: list[Row], clips: list[Row], config: CurateConfig) -> dict[str, Any]:
    count = Counter(r["kind"] for r in clips)
    videos = [r for r in files if r["kind"] == "video" and r["status"] == "accepted"]
    return {
        "files": len(files),
        "accepted": sum(r["status"] == "accepted" for r in files),
        "quarantined": dict(sorted(Counter(r["reason"] for r in files if r["reason"]).items())),
        "shots": sum(r["shots"] for r in videos),
        "dropped_shots": sum(r["dropped_shots"] for r in videos),
        "kinds": {kind: count[kind] for kind in ("clip", "image", "frame")},
        "caption_sources": dict(sorted(Counter(r["caption_source"] for r in clips).items())),
        "trim": config.segment.trim,
        "min_frames": config.segment.min_frames,
    }
