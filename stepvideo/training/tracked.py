"""How long steps of trainings took beside what was predicted, and a device's constants fitted to them; torch-free.

Trainings tell it in their events (`stepvideo.training.monitor`): any store can be read, on any machine.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stepvideo.artifact import Store
from stepvideo.config import load
from stepvideo.emulator.calibration import Calibration
from stepvideo.emulator.fit import Errors, identified, solve
from stepvideo.emulator.hardware import GPU, Cluster
from stepvideo.emulator.machine import element_of
from stepvideo.emulator.plan import Plan
from stepvideo.emulator.step import step
from stepvideo.emulator.workload import Workload
from stepvideo.errors import ConfigError
from stepvideo.models.config import DiTConfig
from stepvideo.parallel.config import TrainParallelConfig
from stepvideo.sink import read_events
from stepvideo.training.predict import Micro, plan_of, workload

SEEN = 3  # steps of a size, without which its median is nobody's
COMPUTE = ("gemm_efficiency", "attention_efficiency", "memory_efficiency", "kernel_s", "launch_s")
INSIDE = ("intra_efficiency", "intra_latency_s")
BETWEEN = ("inter_efficiency", "inter_latency_s")


@dataclass(frozen=True)
class Row:
    """Median seconds of the steps of one size; `predicted` is 0 where the job had no prediction.

    device: as torch names it, and precision. Without a workload (log lines only) it is judged, not predicted anew.
    """

    stage: str
    device: tuple[str, str]
    steps: int
    measured: float
    predicted: float
    work: Workload | None = None
    plan: Plan = Plan()

    def __post_init__(self) -> None:
        if not (0 < self.measured < np.inf and 0 <= self.predicted < np.inf):
            raise ValueError(f"measured {self.measured} s, predicted {self.predicted} s")

    @property
    def error(self) -> float:
        return self.predicted / self.measured - 1


def read(store: Store) -> tuple[list[Row], dict[str, str]]:
    """Rows of every training of a store, and {stage: why it has none, or why it can only be judged}.

    Raises:
        ConfigError: no training that tells its times; says what was looked at.
    """
    rows, remarks, files = [], {}, sorted(store.root.glob("*/*/events.jsonl"))
    for path in files:
        stage = f"{path.parent.parent.name}/{path.parent.name[:8]}"
        try:
            found, remark = _training(stage, [r for r in read_events(path)[0] if isinstance(r, dict)])
        except (OSError, ConfigError, ArithmeticError, AttributeError, KeyError, TypeError, ValueError) as e:
            found, remark = [], f"its times do not read: {e!r}"
        rows += found
        remarks |= {stage: remark} if remark else {}
    if not rows:
        why = "".join(f"\n  {stage}: {remark}" for stage, remark in remarks.items())
        raise ConfigError(
            f"{store.root}: no step times in the events of {len(files)} stages; give the store of a run that trained "
            f"a DiT (`stepvideo run … store=DIR`){why}"
        )
    return rows, remarks


def _training(stage: str, records: list[dict[str, Any]]) -> tuple[list[Row], str]:
    told = [r for r in records if r.get("name") == "step_times"]
    if told:
        rows, sizes = list(_by_size(stage, told[-1])), len(told[-1]["sizes"])
        few = f"{sizes - len(rows)} of {sizes} sizes left out: fewer than {SEEN} steps after the first"
        return rows, few if len(rows) < sizes or not sizes else ""
    rows = list(_by_lines(stage, records))
    if rows:
        return rows, "judged by its log lines, not fitted: killed, running, or of a version that told no sizes"
    timed = any("step_s" in r.get("values", ()) for r in records)
    return [], "no prediction of two log lines or more: not a DiT, or a device that is not known" if timed else ""


def _by_size(stage: str, told: dict[str, Any]) -> Iterator[Row]:
    cfg, par = load(DiTConfig, told["dit"]), load(TrainParallelConfig, told["parallel"])
    for size in told["sizes"]:
        if size["steps"] < SEEN:
            continue
        micro = [Micro(b, (f, h, w)) for b, f, h, w in size["micro"]]
        work = workload(cfg, micro, element_of(told["precision"]), round(size["text"]), round(size["clip"]))
        plan = plan_of(par, told["ranks"], cfg.num_layers, len(micro))
        device = told["device"], told["precision"]
        yield Row(stage, device, size["steps"], size["measured_s"], size["predicted_s"], work, plan)


def _by_lines(stage: str, records: list[dict[str, Any]]) -> Iterator[Row]:
    """One row; the first line of every attempt warms up."""
    seen: list[tuple[float, float]] = []
    first, basis = True, ""
    for r in records:
        values = r.get("values", {})
        if r.get("name") == "attempt_started":
            first = True
        elif r.get("name") == "predicted":
            basis = r["basis"]
        elif "prediction_error" in values:
            predicted = values["predicted_step_s"]
            seen += [] if first else [(predicted, predicted / (1 + values["prediction_error"]))]
            first = False
    if seen:
        predicted, measured = (median(column) for column in zip(*seen))
        yield Row(stage, (f"a device known by: {basis}", ""), len(seen), measured, predicted)


@dataclass(frozen=True)
class Refit:
    """Constants fitted to rows of one device, and log(predicted / measured) of every row by those that its stage had
    no part in; None where there is one stage only."""

    calibration: Calibration
    names: list[str]
    left_out: NDArray[np.float64] | None


def refit(rows: Sequence[Row], gpu: GPU, prior: Calibration, source: str) -> Refit:
    """Fits those constants of a device that the rows tell, beginning from `prior`; rows have workloads."""
    most = max(int(r.plan.gpus) for r in rows)
    candidates = COMPUTE + INSIDE * (most > 1) + BETWEEN * (most > gpu.gpus_per_node)

    def fitted(some: Sequence[Row]) -> tuple[Calibration, list[str]]:
        names = identified(prior, candidates, errors(some, gpu))
        return (solve(prior, names, errors(some, gpu), source) if names else prior), names

    stages = np.array([r.stage for r in rows])
    left = np.zeros(len(rows))
    for stage in set(stages) if len(set(stages)) > 1 else ():
        out = stages == stage
        without, _ = fitted([r for r, o in zip(rows, out) if not o])
        left[out] = errors([r for r, o in zip(rows, out) if o], gpu)(without)
    return Refit(*fitted(rows), left if len(set(stages)) > 1 else None)


def errors(rows: Sequence[Row], gpu: GPU) -> Errors:
    """log(predicted / measured) of every row, as a function of the constants."""
    jobs = [(r.work, Cluster(gpu, int(r.plan.gpus)), r.plan) for r in rows if r.work is not None]
    measured = np.log([r.measured for r in rows if r.work is not None])
    return lambda c: np.log([float(step(*job, c).total) for job in jobs]) - measured
