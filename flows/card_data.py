"""The card of curated data: how many clips, from which files, why others were left out, what their captions are."""

from __future__ import annotations

from typing import Any

from flows.card_parts import UNKNOWN, front, origin, sources, table
from flows.lineage import ancestors
from flows.lineage_clips import catalog_files
from stepvideo import storage
from stepvideo.artifact import Artifact, Store

SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"), (10**7, "1M<n<10M"))


def data_card(store: Store, artifact: Artifact) -> str:
    """Markdown with YAML before it, as hubs of data sets read it."""
    m = artifact.manifest
    every = [artifact, *ancestors(store, artifact)]
    catalog = next((a for a in every if a.manifest["kind"] == "curate"), None)
    captions = next((a for a in every if a.manifest["kind"] in ("labels", "captions")), None)
    files = catalog_files(store, catalog) if catalog else []
    clips = sum(f.clips for f in files)
    name = f"{m['stage']}/{m['key'][:8]}"
    parts = [
        front(_metadata(clips, captions)),
        f"# {name}\n",
        "Data of the stepvideo cascade. Written from manifests; nothing in it was typed.\n",
        f"## Sources\n\n{sources(files, clips)}",
        f"## What was left out of the catalog\n\n{_quarantine(catalog)}",
        *_subset_parts(artifact),
        f"## Captions\n\n{_captions_part(captions)}",
        f"## Limits\n\nWhat is in no table above is {UNKNOWN}: people shown, bias, rights.\n",
        f"## Where it is from\n\n{origin(artifact)}",
    ]
    return "\n".join(parts)


def _metadata(clips: int, captions: Artifact | None) -> dict[str, Any]:
    about: dict[str, Any] = {"task_categories": ["text-to-video"], "tags": ["stepvideo", "video"]}
    if captions and (languages := captions.manifest["config"].get("languages")):
        about["language"] = list(languages)
    if clips:
        about["size_categories"] = [next((name for most, name in SIZES if clips < most), "n>10M")]
    return about


def _quarantine(catalog: Artifact | None) -> str:
    path = catalog.out / "funnel.json" if catalog else None
    if path is None or not path.exists():
        return f"{UNKNOWN.capitalize()}.\n"
    found = storage.read_json(path)
    rows = [("files", found["files"]), ("accepted", found["accepted"])]
    rows += [(f"quarantined: {reason}", n) for reason, n in found["quarantined"].items()]
    return table(("", "number"), [*rows, ("shots", found["shots"]), ("shots dropped", found["dropped_shots"])])


def _subset_parts(artifact: Artifact) -> list[str]:
    if artifact.manifest["kind"] != "subsets":
        return [
            "## Subsets\n\nNone in this artifact; `stepvideo card subsets` is the card of those made from such data.\n"
        ]
    return [
        f"## Subsets\n\n{table(('subset', 'clips'), _subsets(artifact))}",
        f"## Filters\n\n{table(('subset', 'filter', 'threshold', 'removed', 'left'), _filters(artifact))}",
    ]


def _captions_part(captions: Artifact | None) -> str:
    if captions is None:
        return "None in this artifact; `stepvideo card captions` is the card of those made for such data.\n"
    return table(("captions", "number", "different", "flagged", "mean length"), _captions(captions))


def _subsets(artifact: Artifact) -> list[tuple[Any, ...]]:
    import pyarrow.parquet as pq

    return [(p.stem, pq.read_metadata(p).num_rows) for p in sorted(artifact.out.glob("*.parquet"))]


def _filters(artifact: Artifact) -> list[tuple[Any, ...]]:
    path = artifact.out / "funnel.json"
    if not path.exists():
        return []
    return [
        (level["subset"], f["filter"], f["threshold"], f["removed"], f["left"])
        for level in storage.read_json(path)["levels"]
        for f in level["filters"]
    ]


def _captions(captions: Artifact) -> list[tuple[Any, ...]]:
    path = captions.out / "statistics.json"
    if not path.exists():
        return []
    groups = storage.read_json(path)["groups"]
    return [(n, g["captions"], g["different"], g["flagged"], g["length"]["mean"]) for n, g in groups.items()]
