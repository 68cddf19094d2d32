"""Stage `labels`: the captions of the stage `captions` with people's corrections, and what people decided (§7.2).

It has the files of that stage, so whoever reads captions reads these:

    captions.parquet            a corrected caption stands in the place of all of its kind and language, source "human"
    clips.parquet               as there, with the new counts and sources
    statistics.json             of the captions as they are now
    tables/labels.parquet       the side table (`labelling.questions.schema`); SFT sets take clips that are approved
    tables/alignment.parquet    as there: CLIP Scores of the captions before they were corrected
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from stepvideo import storage
from stepvideo.curation.captioning.alignment import TABLE
from stepvideo.curation.captioning.statistics import brief, statistics
from stepvideo.curation.labelling.config import LabelsConfig
from stepvideo.curation.labelling.table import LABELS, read_labels
from stepvideo.curation.records import Row, read_rows, write_table
from stepvideo.data.caption_kinds import HUMAN
from stepvideo.data.captions import CAPTIONS, CLIPS, caption_schema
from stepvideo.data.clips import load_table
from stepvideo.errors import ArtifactError
from stepvideo.stage import StageContext


def run(ctx: StageContext) -> dict[str, float]:
    """Inputs: curate, captions.

    Returns:
        labelled, approved, rejected, open: clips; corrected: captions; and what `statistics.brief` makes of all.

    Raises:
        ArtifactError: there is no table of labels, it is not the one that was planned with, or it has a clip that the
            catalog has not.
    """
    import pyarrow.parquet as pq

    if ctx.rank:
        return {}
    config: LabelsConfig = ctx.config
    path, captions = Path(config.runtime.path), ctx.inputs["captions"]
    labels = read_labels(path)
    if storage.sha256_file(path) != config.content:
        raise ArtifactError(f"{path} is not the table that this run was planned with; start it again")
    known = set(load_table(ctx.inputs["curate"])["clip_id"].to_pylist())
    if unknown := [r["clip_id"] for r in labels if r["clip_id"] not in known]:
        raise ArtifactError(f"{path} has {len(unknown)} clips that the catalog has not, such as {unknown[0]}")
    corrected = {r["clip_id"]: r["corrected"] for r in labels if r["corrected"]}
    rows = _corrected(read_rows(captions / CAPTIONS), corrected)
    seen = _counted(read_rows(captions / CLIPS), rows)
    write_table(rows, caption_schema(), ctx.out / CAPTIONS)
    write_table(seen, pq.read_schema(captions / CLIPS), ctx.out / CLIPS)
    made = statistics(rows)
    storage.write_json(ctx.out / "statistics.json", made)
    tables = ctx.out / "tables"
    storage.write_atomic(tables / LABELS, path.read_bytes())
    storage.write_atomic(tables / f"{TABLE}.parquet", (captions / "tables" / f"{TABLE}.parquet").read_bytes())
    decided = [r["approved"] for r in labels]
    return {
        "labelled": float(len(labels)),
        "approved": float(decided.count(True)),
        "rejected": float(decided.count(False)),
        "open": float(decided.count(None)),
        "corrected": float(sum(map(len, corrected.values()))),
        **brief(made),
    }


def _corrected(rows: list[Row], corrected: dict[str, dict[str, str]]) -> list[Row]:
    """The rows with corrections in the places of what they correct; new slots behind the clip's others."""
    by_clip: dict[str, list[Row]] = {clip_id: [] for clip_id in corrected}
    for row in rows:
        by_clip.setdefault(row["clip_id"], []).append(row)
    out: list[Row] = []
    for clip_id in dict.fromkeys([*(r["clip_id"] for r in rows), *sorted(corrected)]):
        left = dict(corrected.get(clip_id, {}))
        replaced = set(left)
        for row in by_clip[clip_id]:
            slot = f"{row['kind']}_{row['language']}"
            if slot not in replaced:
                out.append(row)
            elif slot in left:
                out.append(_row(clip_id, slot, left.pop(slot)))
        out += [_row(clip_id, slot, text) for slot, text in left.items()]
    return out


def _row(clip_id: str, slot: str, text: str) -> Row:
    kind, language = slot.split("_")
    said = {"clip_id": clip_id, "kind": kind, "language": language, "text": text, "source": HUMAN}
    return (
        said
        | {"model": "", "prompt_version": "", "tokens_in": 0, "tokens_out": 0, "cost": 0.0, "flags": []}
        | {"clip_score": None}
    )


def _counted(seen: list[Row], rows: list[Row]) -> list[Row]:
    own: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        own.setdefault(row["clip_id"], []).append(row)
    return [
        row | {"captions": len(found), "sources": sorted({r["source"] for r in found})}
        for row in seen
        for found in [own.get(row["clip_id"], [])]
    ]
