"""Where clips come from, for statistics of what a training consumed."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from stepvideo import storage
from stepvideo.data.clips import CATALOG
from stepvideo.errors import ArtifactError

MOST_CLIPS = 5_000_000  # about 1 GB a rank


def catalog_of(inputs: Mapping[str, Path]) -> Path | None:
    """The curated catalog behind a training's inputs: one of them, or what its subsets were made of, if it is there."""
    if "curate" in inputs:
        return inputs["curate"]
    manifest = inputs["subsets"].parent / "manifest.json" if "subsets" in inputs else None
    if manifest is None or not manifest.is_file():
        return None
    try:
        ref = storage.read_json(manifest)["inputs"]["curate"]
    except (ArtifactError, KeyError):
        return None
    found = inputs["subsets"].parents[2] / ref["stage"] / ref["key"] / "out"
    return found if (found / CATALOG).is_file() else None


def load_sources(catalog: Path) -> dict[str, str]:
    """clip id → its source: the role of the raw data, and the folder that its file lay in, as "raw/holiday".

    Raises:
        ValueError: the catalog is too large to be held in every rank; join the sample table with it instead.
    """
    import pyarrow.parquet as pq

    columns = ["clip_id", "source_role", "source_file"]
    file = pq.ParquetFile(catalog / CATALOG)
    if file.metadata.num_rows > MOST_CLIPS:
        raise ValueError(f"{file.metadata.num_rows} clips, more than {MOST_CLIPS}")
    table = file.read(columns)
    rows = zip(*(table[name].to_pylist() for name in columns), strict=True)
    return {clip: source_name(role, file) for clip, role, file in rows}


def source_name(role: str | None, file: str | None) -> str:
    """Role and first folder of a raw file; the same text once in memory, however many clips have it."""
    folders = PurePosixPath(file or "").parts[:-1]
    return sys.intern("/".join([role or "", *folders[:1]]).strip("/"))
