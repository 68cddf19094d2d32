"""How fast a training is, step by step, beside what was predicted of it.

The prediction is the caller's: telemetry does not know the emulator. A job may tell it as the counter
`predicted_step_s`; whoever asks may give seconds of his own (`stepvideo emulate step` prints them).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stepvideo.telemetry.sections import DATA_WAIT, STEP
from stepvideo.telemetry.views import Views

Array = NDArray[np.float64]
TOKENS, SAMPLES, FLOPS = "tokens", "samples", "flops"  # counters of a step, told by the first rank of each block
PREDICTED = "predicted_step_s"  # counter of a step
PEAK = "peak_tflops"  # counter of step 0: of a device


@dataclass(frozen=True)
class Series:
    """Of every step that has a time; all ranks together, NaN where nothing was told.

    seconds: on the slowest rank. waited: for data, on the median rank. tokens, samples, flops: of all data ranks.
    predicted: seconds. peak: TFLOP/s of a device, 0 if unknown; ranks: how many share the work.
    """

    steps: NDArray[np.int64]
    seconds: Array
    waited: Array
    tokens: Array
    samples: Array
    flops: Array
    predicted: Array
    ranks: int
    peak: float

    @property
    def mfu(self) -> Array:
        """0 to 1."""
        return self.flops / self.seconds / (self.ranks * self.peak * 1e12) if self.peak else self.seconds * np.nan

    def summary(self) -> dict[str, Any]:
        """Over all steps but the first, which warms up; None where nothing was told."""
        rest = slice(1, None) if len(self.steps) > 1 else slice(None)
        total = float(np.sum(self.seconds[rest]))

        def rate(values: Array) -> float | None:
            return float(np.nansum(values[rest]) / total) if np.isfinite(values[rest]).any() else None

        flops = rate(self.flops)
        known = np.isfinite(self.predicted[rest])
        ratio = self.seconds[rest][known] / self.predicted[rest][known]
        return {
            "steps": len(self.steps),
            "step_s": float(np.median(self.seconds[rest])) if len(self.steps) else None,
            "tokens_per_s": rate(self.tokens),
            "samples_per_s": rate(self.samples),
            "mfu": flops / (self.ranks * self.peak * 1e12) if flops and self.peak else None,
            "data_wait_share": rate(self.waited),
            "predicted_step_s": float(np.median(self.predicted[rest][known])) if known.any() else None,
            "measured_over_predicted": float(np.median(ratio)) if known.any() else None,
        }


def series(views: Views, predicted: float = 0.0, peak: float = 0.0) -> Series:
    """Every step's.

    Args:
        predicted: seconds of a step, in place of those that the job told.
        peak: TFLOP/s of a device, likewise.
    """
    of_rank = (
        f"SELECT step, rank, coalesce(sum(duration_ns) FILTER (name = '{STEP}'), sum(duration_ns)"
        f" FILTER (parent = '')) AS ns, sum(duration_ns) FILTER (name = '{DATA_WAIT}') AS waited FROM span"
        f" WHERE step > 0 AND (name IN ('{STEP}', '{DATA_WAIT}') OR parent = '') GROUP BY step, rank"
    )
    found = views.arrays(
        f"SELECT step, max(ns) / 1e9 AS seconds, median(waited) / 1e9 AS waited FROM ({of_rank})"
        " WHERE ns IS NOT NULL GROUP BY step ORDER BY step"
    )
    steps = np.asarray(found["step"], np.int64)
    block = views.layout.block
    told = views.arrays(
        f"SELECT step, name, sum(value) FILTER (rank % {block} = 0) AS total, avg(value) AS mean FROM counter"
        f" WHERE step > 0 AND name IN ('{TOKENS}', '{SAMPLES}', '{FLOPS}', '{PREDICTED}') GROUP BY step, name"
    )

    def counted(name: str, column: str) -> Array:
        values, mine = np.full(len(steps), np.nan), told["name"] == name
        known = mine & np.isin(told["step"], steps)
        values[np.searchsorted(steps, told["step"][known])] = _plain(told[column])[known]
        return values

    if not peak:
        peak = float((views.sql(f"SELECT max(value) FROM counter WHERE name = '{PEAK}'") or [(0,)])[0][0] or 0)
    return Series(
        steps, _plain(found["seconds"]), _plain(found["waited"]), counted(TOKENS, "total"),
        counted(SAMPLES, "total"), counted(FLOPS, "total"),
        np.full(len(steps), predicted) if predicted else counted(PREDICTED, "mean"), len(views.layout.ranks), peak,
    )  # fmt: skip


def _plain(column: Any) -> Array:
    return np.ma.filled(np.ma.asarray(column, np.float64), np.nan)
