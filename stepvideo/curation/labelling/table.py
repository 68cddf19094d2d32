"""labels.parquet: what people decided of clips, a side table of the catalog with every vote in it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from stepvideo.curation.labelling.questions import QUESTIONS, Label, Vote, schema
from stepvideo.curation.records import write_table
from stepvideo.errors import ArtifactError

LABELS = "labels.parquet"


def write_labels(labels: Sequence[Label], path: Path) -> None:
    """Equal labels give equal bytes."""
    write_table([_row(label) for label in labels], schema(), path)


def read_labels(path: Path) -> list[dict[str, Any]]:
    """The rows, with `corrected` as slot → caption. Raises ArtifactError: it is no table of labels as made here."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path)
    except (OSError, pa.ArrowInvalid) as e:
        raise ArtifactError(f"{path} is no table of labels (stepvideo label import makes one): {e}") from e
    if not table.schema.equals(schema()):
        raise ArtifactError(
            f"{path} has columns {', '.join(table.column_names)}; make it again: stepvideo label import"
        )
    rows = table.to_pylist()
    if len({r["clip_id"] for r in rows}) < len(rows):
        raise ArtifactError(f"{path} has a clip twice; make it again: stepvideo label import")
    return [r | {"corrected": json.loads(r["corrected"])} for r in rows]


def _row(label: Label) -> dict[str, Any]:
    return {
        "clip_id": label.clip_id,
        "approved": label.approved,
        **{f"{q}_ok": label.verdicts[q] for q in QUESTIONS},
        "corrected": _json(label.captions),
        "decided": label.decided,
        "annotators": len(label.votes),
        "votes": [_vote(v) for v in label.votes],
    }


def _vote(vote: Vote) -> dict[str, Any]:
    said = {q: vote.verdicts.get(q) for q in QUESTIONS}
    return {"annotator": vote.annotator, **said, "captions": _json(vote.captions), "note": vote.note}


def _json(captions: Mapping[str, str]) -> str:
    return json.dumps(captions, ensure_ascii=False, sort_keys=True)
