"""What the curation writes: one row a clip and one row a source file, as dicts with fixed Arrow schemas."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stepvideo.curation.captions import Shot

if TYPE_CHECKING:
    import pyarrow as pa

    from stepvideo.s3 import Object

TAGS = (
    *("saturation_mean", "saturation_max", "saturation_min", "blur", "blur_fixed"),
    *("motion_mean", "motion_max", "motion_min", "motion_rate"),
)
Row = dict[str, Any]


@dataclass(frozen=True)
class Source:
    """A media file of an input artifact."""

    role: str
    file: str  # relative to the role's media root
    path: Path
    kind: str  # "video" or "image"
    sha256: str
    size: int
    error: str = ""  # why it could not even be read
    shots: list[Shot] = field(default_factory=list)  # from its sidecar
    origin: Object | None = None  # where it is to be fetched from: until then there is no `path`, and no sha256


@dataclass
class Result:
    """What became of one source: its file row, and its clip rows (none when it was quarantined)."""

    file: Row
    clips: list[Row] = field(default_factory=list)


def clip_id(kind: str, sha256: str, start: int, end: int) -> str:
    """32 hex digits that name frames [start, end) of a source by its content."""
    return hashlib.sha256(f"{kind}:{sha256}:{start}:{end}".encode()).hexdigest()[:32]


def media_name(name: str, suffix: str) -> str:
    """Where a media file of the catalog is kept: two levels, so that no folder grows without bound."""
    return f"media/{name[:2]}/{name}{suffix}"


def file_row(source: Source, status: str, reason: str = "", detail: str = "", measured: Row | None = None) -> Row:
    """`status` is "accepted" or "quarantined"."""
    row: Row = dict.fromkeys(files_schema().names)
    row |= {"role": source.role, "file": source.file, "kind": source.kind, "sha256": source.sha256, "size": source.size}
    return row | {"status": status, "reason": reason, "detail": detail} | (measured or {})


def quarantined(source: Source, reason: str, detail: str, measured: Row | None = None) -> Result:
    return Result(file_row(source, "quarantined", reason, detail, measured))


def clip_schema() -> pa.Schema:
    """Columns of catalog.parquet; read back by `stepvideo.data.clips`."""
    import pyarrow as pa

    box = pa.list_(pa.int32())
    columns = [
        *(("clip_id", pa.string()), ("kind", pa.string()), ("parent", pa.string())),  # parent: clip of a "frame"
        *(("file", pa.string()), ("stored", pa.string())),  # stored: "source" as it came, "encoded" here
        *(("first_frame", pa.int32()), ("frames", pa.int32())),
        *(("height", pa.int32()), ("width", pa.int32()), ("fps", pa.float64()), ("crop", box)),
        *(("captions", pa.string()), ("caption_source", pa.string()), ("caption_overlap", pa.float64())),
        ("attributes", pa.string()),
        *((f"tag_{t}", pa.float64()) for t in TAGS),
        *(("source_role", pa.string()), ("source_file", pa.string()), ("source_sha256", pa.string())),
        *(("source_start", pa.int32()), ("source_end", pa.int32()), ("source_crop", box)),
    ]
    return pa.schema(columns)


def files_schema() -> pa.Schema:
    """Columns of files.parquet and quarantine.parquet."""
    import pyarrow as pa

    return pa.schema(
        [
            *((n, pa.string()) for n in ("role", "file", "kind", "sha256")),
            ("size", pa.int64()),
            *((n, pa.string()) for n in ("status", "reason", "detail")),
            *((n, pa.int32()) for n in ("frames", "expected", "bad_packets", "corrupt_frames", "width", "height")),
            *((n, pa.int32()) for n in ("rotation", "bits", "shots", "clips", "dropped_shots", "failed_cuts")),
            *((n, pa.float64()) for n in ("fps", "duration", "last_time")),  # seconds: promised, and of the last frame
            *((n, pa.string()) for n in ("codec", "pix_fmt", "container", "audio")),
            *((n, pa.bool_()) for n in ("vfr", "hdr")),
            *((n, pa.list_(pa.int32())) for n in ("keyframes", "cuts")),
            ("transitions", pa.list_(pa.list_(pa.int32()))),  # [start, end)
        ]
    )


def to_json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, sort_keys=True)


def write_table(rows: list[Row], schema: pa.Schema, path: Path) -> None:
    """Write rows as Parquet, whole or not at all. Equal rows give equal bytes."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    path.parent.mkdir(parents=True, exist_ok=True)
    tmp = path.with_name(f".{path.name}.tmp")
    pq.write_table(pa.Table.from_pylist(rows, schema), tmp, compression="zstd")
    os.replace(tmp, path)


def read_rows(path: Path) -> list[Row]:
    import pyarrow.parquet as pq

    return pq.read_table(path).to_pylist()
