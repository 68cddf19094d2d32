"""The head of every graph (report §7): raw videos → clips, tags, concepts, captions, subsets."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flows.graph import Row
from stepvideo import storage
from stepvideo.artifact import content_digest
from stepvideo.curation.tagging_config import HUB

STAGES = {
    "raw": "raw",
    "curate": "curate",
    "tags": "tags",
    "concepts": "concepts",
    "captions": "captions",
    "labels": "labels",
    "subsets": "subsets",
}
JUDGES = ("tags", "concepts")  # stages of the head that give side tables


def rows(cfg: Mapping[str, Any], sources: Mapping[str, str]) -> list[Row]:
    """From `curate` to `subsets`. No backend, no `tags`; no embedding, no `concepts`.

    Args:
        sources: role: row with raw files.
    """
    tags, captions = cfg["stages"]["tags"], cfg["stages"]["captions"]
    backends, weights = tags["backends"], tags["runtime"]["weights"]
    measured = {"tags": "tags"} if any(backends.values()) else {}
    judged = measured | ({"concepts": "concepts"} if backends.get("embedding") else {})
    # CLIP Scores want the CLIP that the embeddings are from
    clip = captions["runtime"]["clip"] or (weights["embedding"] if "concepts" in judged else "")
    known, content = _located({"clip": clip})
    worded = {"clip_content": content.get("clip", ""), "runtime": known}
    table = [Row("curate", "curate", sources)]
    if measured:
        known, contents = _located(weights)
        made_by = {"contents": contents, "runtime": {"weights": known}}
        table.append(Row("tags", "tags", {"curate": "curate"}, set=made_by))
    if "concepts" in judged:
        table.append(Row("concepts", "concepts", measured))
    table.append(Row("captions", "captions", {"curate": "curate", **measured}, set=worded))
    if cfg["labels"]:
        given, digests = _located({"path": cfg["labels"]})
        about = {"content": digests.get("path", ""), "runtime": given}
        table.append(Row("labels", "labels", {"curate": "curate", "captions": "captions"}, set=about))
    return [*table, Row("subsets", "subsets", {"curate": "curate", **judged, **captions_of(cfg)})]


def captions_of(cfg: Mapping[str, Any]) -> dict[str, str]:
    """The role captions, and the row that gives them: with labels by people, as those corrected them."""
    return {"captions": "labels" if cfg["labels"] else "captions"}


def raw_folder(folder: str, absent: bool = False) -> dict[str, Any]:
    """Settings of a `raw` stage: its key is the content of the folder; where it lies is only how to reach it.

    Args:
        folder: or an s3:// URL, of which the listing is the content.
        absent: the folder need not be there to plan; the stage itself asks for it.
    """
    from stepvideo.curation import raw

    content = "" if absent and not Path(folder).is_dir() else raw.content_digest(folder)
    return {"content": content, "runtime": {"path": folder}}


def _located(places: Mapping[str, str]) -> tuple[dict[str, str], dict[str, str]]:
    """Places of weights, absolute where they are there, and digests of what they are, which keys follow.

    A place that is not there stays as it is: the stage says so. One of the hub goes by its name: nothing is fetched to
    plan.
    """
    found = {name: Path(place).expanduser().absolute() for name, place in places.items() if place}
    digests = {n: content_digest(storage.checksums(p)) for n, p in found.items() if p.is_dir()}
    digests |= {n: storage.sha256_file(p) for n, p in found.items() if p.is_file()}
    digests |= {n: places[n] for n in found if places[n].startswith(HUB)}
    return {n: str(p) if p.exists() else places[n] for n, p in found.items()}, digests
