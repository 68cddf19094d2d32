"""Training curves of the same stage in several runs, from the events beside their artifacts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from flows.comparison.subjects import Aligned, Gap, Subject
from stepvideo import storage
from stepvideo.artifact import Artifact
from stepvideo.sink import read_events
from stepvideo.svg import thin

Points = list[tuple[float, float]]
MOST_POINTS = 300  # of a curve in a page; more are averaged, as in `stepvideo.svg.thin`
MOST_METRICS = 12  # of a stage in a page
FIRST = ("loss", "val_loss", "train_loss", "psnr", "reward", "accuracy", "grad_norm", "lr")  # names that say most


@dataclass(frozen=True)
class Chart:
    """One stage: metric → points (step, value) of every subject, None for one that has none."""

    stage: str
    metrics: dict[str, list[Points | None]]
    left_out: int  # metrics that a page has no room for

    def as_dict(self) -> dict[str, Any]:
        return {"stage": self.stage, "metrics": self.metrics, "left_out": self.left_out}


def charts(rows: Aligned, compared: Sequence[Subject]) -> tuple[list[Chart], list[Gap]]:
    """Charts of stages that logged steps and differ between subjects, and what there is no curve of."""
    found: list[Chart] = []
    missing: list[Gap] = []
    for name, row in rows.items():
        there = [a for a in row if a]
        if len({a.digest for a in there}) == 1:
            if _has_steps(there[0]):
                lone = "only one has them" if len(there) == 1 else "the same in all that have them, not drawn"
                missing.append(Gap("curves", name, lone))
            continue
        curves = [curves_of(a) if a else {} for a in row]
        if not any(curves):
            continue
        missing += [Gap("curves", name, f"{s.name} logged no step") for s, c in zip(compared, curves) if not c]
        names = sorted({m for c in curves for m in c}, key=_place)
        shown = {m: [_short(c.get(m)) for c in curves] for m in names[:MOST_METRICS]}
        found.append(Chart(name, shown, max(0, len(names) - MOST_METRICS)))
    return found, missing


def curves_of(artifact: Artifact) -> dict[str, Points]:
    """{metric: points} by step. A step that a killed attempt had logged already counts once, as it was last."""
    found: dict[str, dict[float, float]] = {}
    for record in read_events(artifact.dir / "events.jsonl")[0]:
        if record["type"] == "metrics":
            for name, value in record["values"].items():
                if isinstance(value, int | float) and math.isfinite(value):
                    found.setdefault(name, {})[record["step"]] = value
    if not found:
        for path in sorted(artifact.out.glob("loss_curve*.json")):
            data = storage.read_json(path)
            part = ".".join(path.name.split(".")[1:-1])
            for i, column in enumerate(data["columns"][1:], 1):
                points = {r[0]: r[i] for r in data["rows"] if r[i] is not None and math.isfinite(r[i])}
                found[f"{part}.{column}" if part else column] = points
    return {name: sorted(points.items()) for name, points in found.items() if points}


def _has_steps(artifact: Artifact) -> bool:
    return any(r["type"] == "metrics" for r in read_events(artifact.dir / "events.jsonl")[0])


def _place(name: str) -> tuple[int, str]:
    return next((i for i, known in enumerate(FIRST) if name == known), len(FIRST)), name


def _short(points: Points | None) -> Points | None:
    return [(x, float(f"{y:.6g}")) for x, y in thin(points, MOST_POINTS)] if points else None
