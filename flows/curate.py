"""The curation by itself (report §7): a folder of videos and images → clips, tags, subsets, and a page to look at them.

The same stages as at the head of the cascade (`flows.table`), for a folder without captions, a config or a model.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flows.graph import Row
from flows.table import raw_folder

STAGES = {
    "raw": "raw",
    "curate": "curate",
    "tags": "tags",
    "subsets": "subsets",
}


def rows(cfg: Mapping[str, Any]) -> list[Row]:
    return [
        Row("raw", "raw", set=raw_folder(cfg["raw"])),
        Row("curate", "curate", {"raw": "raw"}),
        Row("tags", "tags", {"curate": "curate"}),
        Row("subsets", "subsets", {"curate": "curate", "tags": "tags"}, final=True),
    ]
