"""The curation by itself (report §7): a folder of videos and images → clips, tags, subsets, and a page to look at them.

The head of the cascade, for a folder without captions, a config or a model.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flows import head
from flows.graph import Row

STAGES = {**head.STAGES, "sheet": "sheet", "shards": "shards"}


def rows(cfg: Mapping[str, Any]) -> list[Row]:
    table = [Row("raw", "raw", set=head.raw_folder(cfg["raw"])), *head.rows(cfg, {"raw": "raw"})]
    table.append(Row("sheet", "sheet", {**table[-1].inputs, "subsets": "subsets"}))
    if cfg["shards"]:
        table.append(Row("shards", "shards", {"curate": "curate", "subsets": "subsets", **head.captions_of(cfg)}))
    return table


def next_command(places: Mapping[str, Path]) -> str:
    """What to type after a run.

    Args:
        places: stage → folder of its artifact.
    """
    store = places["curate"].parents[2]
    return f"stepvideo funnel {store} --uncaptioned 'motion_mean>=10%' | stepvideo browse {store}"
