"""What the page shows, as JSON: figures of a run, and the cube of durations packed into text.

A duration is an unsigned 16-bit number, 1 + 2000 x (log of its nanoseconds), 0 where there is none: steps of 0.05 %.
The cube, [sections, ranks, stretches] in that order, little-endian, is deflated and then base64.
"""

from __future__ import annotations

import base64
import math
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stepvideo.telemetry.anomalies import Anomaly, Bars
from stepvideo.telemetry.consumption import consumption, duplicates, mix
from stepvideo.telemetry.findings import findings
from stepvideo.telemetry.sections import waits
from stepvideo.telemetry.throughput import Series, series
from stepvideo.telemetry.times import Cube, breakdown, cube
from stepvideo.telemetry.views import Views

SCALE = 2000  # per natural logarithm
SECTIONS = 16  # those with most time
POINTS = 400  # of a curve


def payload(
    views: Views,
    bars: Bars | None = None,
    shares: Mapping[str, float] | None = None,
    predicted: float = 0.0,
    first: int = 0,
    last: int = 0,
) -> dict[str, Any]:
    """Of all steps; `first` and `last` choose the steps of the cube.

    Args:
        shares: {bucket: configured share of the samples}.
        predicted: seconds of a step, in place of those that the job told.
    """
    whole = cube(views)
    shown = cube(views, first=first, last=last) if first or last else whole
    progress = series(views, predicted)
    return {
        "run": views.run,
        "stage": views.stage,
        "steps": views.steps,
        "attempts": len(views.attempts),
        "block": views.layout.block,
        "ranks": shown.ranks,
        "nodes": [views.layout.nodes.get(rank, "") for rank in shown.ranks],
        "cube": _packed_cube(shown),
        "breakdown": breakdown(views, whole),
        "summary": progress.summary(),
        "series": _curves(progress),
        "consumption": {by: consumption(views, by) for by in ("source", "kind")},
        "mix": mix(views, shares),
        "duplicates": duplicates(views),
        "anomalies": [as_json(a) for a in findings(views, bars, shares, whole, progress)],
    }


def as_json(a: Anomaly) -> dict[str, Any]:
    """For programs."""
    where = {"kind": a.where.kind, "name": a.where.name, "ranks": a.where.ranks, "nodes": a.where.nodes}
    return {
        "kind": a.kind, "severity": a.severity, "where": where, "said": str(a.where), "since_step": a.since_step,
        "evidence": dict(a.evidence), "suggestion": a.suggestion,
    }  # fmt: skip


def clean(value: Any) -> Any:
    """JSON knows no NaN: null."""
    if isinstance(value, Mapping):
        return {k: clean(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [clean(v) for v in value]
    if isinstance(value, float | np.floating):
        return float(value) if math.isfinite(value) else None
    return value.item() if isinstance(value, np.generic) else value


def _packed_cube(found: Cube) -> dict[str, Any]:
    """Seconds of a step in each section: what a rank does several times in a step is added up."""
    names = found.sections[:SECTIONS]
    with np.errstate(divide="ignore", invalid="ignore"):
        # Of one span the mean logarithm, which no single pause dominates, times how often it comes in a step.
        often = np.log(np.stack([found.count[i] / found.steps for i in range(len(names))] or [found.count]))
        log = found.log[: len(names)] + often
        quantised = np.clip(np.round(1 + SCALE * log), 1, 65535)
    packed: NDArray[np.uint16] = np.where(np.isfinite(log), quantised, 0).astype("<u2")
    return {
        "sections": names,
        "waiting": [waits(name) for name in names],
        "first": int(found.starts[0]) if len(found.starts) else 0,
        "width": found.width,
        "stretches": len(found.starts),
        "scale": SCALE,
        "data": base64.b64encode(zlib.compress(packed.tobytes(), 6)).decode(),
    }


def _curves(found: Series) -> dict[str, list[float | None]]:
    """Medians of at most `POINTS` stretches of steps."""
    width = max(1, -(-len(found.steps) // POINTS))
    curves: dict[str, list[float | None]] = {"step": [int(s) for s in found.steps[::width]]}
    rates = {
        "seconds": found.seconds, "predicted": found.predicted, "tokens_per_s": found.tokens / found.seconds,
        "samples_per_s": found.samples / found.seconds, "mfu": found.mfu,
    }  # fmt: skip
    for name, values in rates.items():
        parts = [values[i : i + width] for i in range(0, len(values), width)]
        curves[name] = [float(np.nanmedian(p)) if np.isfinite(p).any() else None for p in parts]
    return curves
