"""The curation by itself (report §7): a folder of videos and images → clips, tags, subsets, and a page to look at them.

The same stages as at the head of the cascade (`flows.table`), for a folder without captions, a config or a model.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flows.graph import Row
from flows.table import raw_folder
from stepvideo import storage
from stepvideo.artifact import content_digest

STAGES = {
    "raw": "raw",
    "curate": "curate",
    "tags": "tags",
    "concepts": "concepts",
    "captions": "captions",
    "shards": "shards",
    "subsets": "subsets",
    "sheet": "sheet",
}


def rows(cfg: Mapping[str, Any]) -> list[Row]:
    tags = cfg["stages"]["tags"]
    judged = {"tags": "tags"} | ({"concepts": "concepts"} if tags["backends"].get("embedding") else {})
    table = [
        Row("raw", "raw", set=raw_folder(cfg["raw"])),
        Row("curate", "curate", {"raw": "raw"}),
        Row("tags", "tags", {"curate": "curate"}, set=_weights(tags["runtime"]["weights"])),
        *([Row("concepts", "concepts", {"tags": "tags"})] if "concepts" in judged else []),
        Row("captions", "captions", {"curate": "curate", "tags": "tags"}),
        Row("subsets", "subsets", {"curate": "curate", **judged, "captions": "captions"}, final=True),
        Row("sheet", "sheet", {"curate": "curate", "subsets": "subsets", **judged, "captions": "captions"}),
    ]
    if cfg["shards"]:
        table.append(Row("shards", "shards", {"curate": "curate", "subsets": "subsets", "captions": "captions"}))
    return table


def next_command(places: Mapping[str, Path]) -> str:
    """What to type after a run.

    Args:
        places: stage → folder of its artifact.
    """
    tables = " ".join(f"--tables {places[name]}" for name in ("tags", "concepts") if name in places)
    return f"stepvideo funnel {places['curate']} {tables} --uncaptioned 'motion_mean>=10%'"


def _weights(places: Mapping[str, str]) -> dict[str, Any]:
    """The key follows what the weights are; the stage's own error says where they are missing."""
    found = {table: Path(place).expanduser().absolute() for table, place in places.items() if place}
    digests = {t: content_digest(storage.checksums(p)) if p.is_dir() else "" for t, p in found.items()}
    digests |= {t: storage.sha256_file(p) for t, p in found.items() if p.is_file()}
    known = {t: str(p) if p.exists() else places[t] for t, p in found.items()}
    return {"contents": {t: d for t, d in digests.items() if d}, "runtime": {"weights": known}}
