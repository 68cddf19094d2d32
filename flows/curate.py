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
    "captions": "captions",
    "shards": "shards",
    "subsets": "subsets",
}


def rows(cfg: Mapping[str, Any]) -> list[Row]:
    table = [
        Row("raw", "raw", set=raw_folder(cfg["raw"])),
        Row("curate", "curate", {"raw": "raw"}),
        Row("tags", "tags", {"curate": "curate"}, set=_weights(cfg["stages"]["tags"]["runtime"]["weights"])),
        Row("captions", "captions", {"curate": "curate", "tags": "tags"}),
        Row("subsets", "subsets", {"curate": "curate", "tags": "tags", "captions": "captions"}, final=True),
    ]
    if cfg["shards"]:
        table.append(Row("shards", "shards", {"curate": "curate", "subsets": "subsets"}))
    return table


def _weights(places: Mapping[str, str]) -> dict[str, Any]:
    """The key follows what the weights are; the stage's own error says where they are missing."""
    found = {table: Path(place).expanduser().absolute() for table, place in places.items()}
    digests = {t: content_digest(storage.checksums(p)) if p.is_dir() else "" for t, p in found.items()}
    digests |= {t: storage.sha256_file(p) for t, p in found.items() if p.is_file()}
    known = {t: str(p) if p.exists() else places[t] for t, p in found.items()}
    return {"contents": {t: d for t, d in digests.items() if d}, "runtime": {"weights": known}}
