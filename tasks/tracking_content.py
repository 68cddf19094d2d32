"""What MLflow shows of a finished stage beside its metrics: tables, videos, tags to filter by, and headlines.

Everything is written under one name from the artifact alone, so that telling it twice changes nothing. (MLflow's own
`log_table` appends to what is there, and would double the rows of a stage whose driver was killed.)
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from stepvideo import storage
from stepvideo.artifact import Artifact
from tasks.figures import figures

TABLES = "mlflow.loggedArtifacts"  # the tag by which MLflow's UI and `load_table` find tables
ROWS = "evaluation/rows.json"
MEDIA = (".mp4", ".png", ".gif", ".webm")
SHOWN = ("samples/", "contact_sheet.png")  # files of an evaluation
HEADLINES: dict[str, tuple[str, ...]] = {
    "curate": ("clips",),
    "captions": ("captions",),
    "subsets": ("s1", "s6"),
    "text": ("clip_loss", "llm_loss"),
    "train": ("loss", "val_loss"),
    "dpo": ("loss",),
    "turbo": ("loss",),
    "evaluate": ("heldout/all", "heldout/colour", "train/all", "train/colour"),
}
"""Metrics of a stage that its run shows, by kind: few, since MLflow compares many slowly. Other kinds: one."""


def log_content(client: Any, run_id: str, artifact: Artifact) -> None:
    """Tables, plots and videos of an artifact, and its `model_tags`."""
    tables = []
    if found := figures(artifact):
        client.log_dict(run_id, found.as_dict(), "figures/table.json")
        client.log_text(run_id, found.svg, "figures/plot.svg")
        tables.append("figures/table.json")
    if artifact.manifest["kind"] == "evaluate":
        client.log_dict(run_id, evaluation_rows(artifact), ROWS)
        tables.append(ROWS)
        for name in shown_files(artifact):
            client.log_artifact(run_id, str(artifact.out / name), name.rpartition("/")[0] or None)
    if tables:
        client.set_tag(run_id, TABLES, json.dumps([{"path": t, "type": "table"} for t in tables]))
    for key, value in model_tags(artifact).items():
        client.set_tag(run_id, key, value)


def evaluation_rows(artifact: Artifact) -> dict[str, Any]:
    """The rows of an evaluation as MLflow's tables are: {"columns", "data"}, a sample a row, attributes as columns."""
    rows = [_flat(row) for row in storage.read_json_lines(artifact.out / "results.jsonl")]
    columns = list(dict.fromkeys(c for row in rows for c in row))
    return {"columns": columns, "data": [[row.get(c) for c in columns] for row in rows]}


def shown_files(artifact: Artifact) -> list[str]:
    """Videos and pictures of an evaluation, which keeps as many as its `save_videos` says."""
    return [n for n in sorted(artifact.manifest["files"]) if n.startswith(SHOWN) and n.endswith(MEDIA)]


def model_tags(artifact: Artifact) -> dict[str, str]:
    """`model_digest`: of a model its own digest, of what was made with one that model's. Nothing for other stages."""
    m = artifact.manifest
    if any(name.startswith("transformer/") for name in m["files"]):
        return {"model_digest": artifact.digest}
    return {"model_digest": m["inputs"]["model"]["digest"]} if "model" in m["inputs"] else {}


def headlines(artifact: Artifact) -> dict[str, float]:
    """ "stage/metric": value, for the run that the stage belongs to."""
    kind, metrics, stage = artifact.manifest["kind"], artifact.metrics, artifact.manifest["stage"]
    names = [n for n in HEADLINES.get(kind, ()) if n in metrics]
    if kind == "vae":
        names = [max((n for n in metrics if n.startswith("psnr_")), key=lambda n: int(n[5:]), default="loss")]
    if kind not in (*HEADLINES, "vae"):
        names = list(metrics)[:1]
    return {f"{stage}/{n}": metrics[n] for n in names if n in metrics}


def filter_tags(cfg: Mapping[str, Any], lineage: Mapping[str, Any]) -> dict[str, str]:
    """Tags that say where a run belongs: profile, launcher, data_version. docs/comparing.md has example filters."""
    data = lineage.get("data_version") or lineage.get("data_md5", "")
    return {"profile": str(cfg["name"]), "launcher": str(cfg["cluster"]["launcher"]), "data_version": str(data)}


def _flat(row: Mapping[str, Any]) -> dict[str, Any]:
    own = {k: row[k] for k in ("run", "index", "held_out", "lang", "text", "seed", "steps", "nfe")}
    right = {k: v for k, v in sorted(row["right"].items())}
    soft = {f"soft_{k}": v for k, v in sorted(row["soft"].items())}
    return {**own, **right, **soft, "steadiness": row["steadiness"], "sample": row["sample"]}
