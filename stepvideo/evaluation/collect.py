"""Reads what a report is made of from the artifacts of a run. Nothing here decides or draws."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from stepvideo import storage
from stepvideo.errors import ArtifactError
from stepvideo.evaluation.config import ReportConfig
from stepvideo.evaluation.results import MAIN, Row, read_rows

UPPER = {"t2i", "t2vi", "sft", "dpo", "vae", "clip", "llm", "ti2v"}
# The order in which a cascade makes its models; names arrive sorted, and a report reads in order of time.
CASCADE = ("text", "vae", "vae1", "vae2", "vae_tuned", "t2i", "t2vi_192", "t2vi_540", "sft", "average", "dpo", "turbo")


@dataclass(frozen=True)
class Run:
    """One evaluated run: a model sampled in one way.

    Attributes:
        ref: "sft.1", or "dpo/steps8" for an extra run; what a config names it by.
        rows: in prompt order.
        sampling: steps, cfg, time_shift, cfg_schedule, frames, height, width.
        testable: attribute → may its score be reported.
        folder: the evaluation's artifact.
    """

    ref: str
    rows: list[Row]
    sampling: Mapping[str, Any]
    testable: Mapping[str, bool]
    gate: Mapping[str, Any]
    folder: Path

    @property
    def label(self) -> str:
        model, _, run = self.ref.partition("/")
        return label(model) + (f" · {run}" if run else "")

    @property
    def nfe(self) -> int:
        return self.rows[0].nfe

    def latents(self) -> np.ndarray | None:
        """End points [n, …] float32, if the evaluation kept them."""
        from safetensors.numpy import load_file

        path = self.folder / "latents" / f"{self.ref.partition('/')[2] or MAIN}.safetensors"
        return load_file(path)["latents"].astype(np.float32) if path.exists() else None


@dataclass(frozen=True)
class Curve:
    """A training curve: rows [step, loss, grad_norm, …] under `columns`."""

    stage: str
    columns: list[str]
    rows: list[list[float]]

    def points(self, column: str) -> list[tuple[float, float]]:
        if column not in self.columns:
            return []
        i = self.columns.index(column)
        return [(r[0], r[i]) for r in self.rows]


@dataclass
class Collected:
    """Everything a report shows. What a run did not have is empty."""

    runs: dict[str, Run] = field(default_factory=dict)
    curves: list[Curve] = field(default_factory=list)
    curate: dict[str, Any] = field(default_factory=dict)
    subsets: dict[str, Any] = field(default_factory=dict)
    lineage: list[dict[str, Any]] = field(default_factory=list)


def label(name: str) -> str:
    """A stage's name for people: "t2vi_192.s3" → "T2VI 192 s3", "sft.1" → "SFT 1", "turbo" → "Turbo"."""
    words = re.split(r"[._ ]+", name)
    first = re.sub(r"\d+$", "", words[0])
    head = words[0].upper() if words[0] in UPPER or first in UPPER else words[0][:1].upper() + words[0][1:]
    return " ".join([head, *words[1:]])


def collect(cfg: ReportConfig, inputs: Mapping[str, Path]) -> Collected:
    """Read the inputs by role (see `ReportConfig`).

    Raises:
        ArtifactError: an evaluation is incomplete or damaged, or an input has none of the files its role promises.
    """
    found = Collected()
    for name in _ordered([r[9:] for r in inputs if r.startswith("evaluate.")], cfg.models):
        for run in _runs(name, inputs[f"evaluate.{name}"]):
            found.runs[run.ref] = run
    for name in _ordered([r[6:] for r in inputs if r.startswith("train.")], cfg.stages):
        found.curves += _curves(name, inputs[f"train.{name}"])
    for role in ("curate", "subsets"):
        if role in inputs:
            setattr(found, role, storage.read_json(inputs[role] / "funnel.json"))
    found.lineage = _lineage(cfg, inputs)
    return found


def _ordered(names: list[str], wanted: list[str]) -> list[str]:
    """In the wanted order; the rest after them, in the order of the cascade, then by name (s2 before s10)."""

    def place(name: str) -> tuple[int, list[tuple[int, str]]]:
        family = name.partition(".")[0]
        rank = CASCADE.index(family) if family in CASCADE else len(CASCADE)
        return rank, [(int(p), "") if p.isdigit() else (-1, p) for p in re.split(r"(\d+)", name)]

    return [n for n in wanted if n in names] + sorted((n for n in names if n not in wanted), key=place)


def _runs(name: str, folder: Path) -> list[Run]:
    summary = storage.read_json(folder / "summary.json")
    rows = read_rows(folder / "results.jsonl")
    gate = summary["gate"]
    return [
        Run(
            name if run == MAIN else f"{name}/{run}",
            rows[run],
            about["sampling"],
            gate["testable"],
            gate,
            folder,
        )
        for run, about in ((run, summary["runs"][run]) for run in rows)
    ]


def _curves(name: str, folder: Path) -> list[Curve]:
    """`loss_curve.json`, or several: `loss_curve.PART.json` (a stage that trains more than one network)."""
    paths = sorted(folder.glob("loss_curve*.json"))
    curves = []
    for path in paths:
        data = storage.read_json(path)
        try:
            columns, rows = data["columns"], data["rows"]
            curve = Curve(".".join([name, *path.name.split(".")[1:-1]]), list(columns), [list(r) for r in rows])
            if not rows or any(len(r) != len(columns) for r in rows) or columns[0] != "step":
                raise ValueError("no rows, rows of another length, or a first column that is not the step")
        except (KeyError, TypeError, ValueError) as e:
            raise ArtifactError(f"{path} is no loss curve {{columns, rows}}: {e}") from e
        curves.append(curve)
    return curves


def _lineage(cfg: ReportConfig, inputs: Mapping[str, Path]) -> list[dict[str, Any]]:
    import json

    if "lineage" in inputs:
        return storage.read_json(inputs["lineage"] / "lineage.json")
    try:
        return json.loads(cfg.lineage) if cfg.lineage else []
    except ValueError as e:
        raise ArtifactError(f"config lineage is not JSON: {e}") from e
