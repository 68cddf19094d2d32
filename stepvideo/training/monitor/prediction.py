"""The emulator judged at every run: seconds of a step as predicted from the batch's shapes, beside the measured ones.

What is predicted is the step on this machine with its calibration (`stepvideo emulate calibrate`), or by the priors of
its GPU. It changes nothing of the training.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from statistics import median

import torch

from stepvideo.data.source import Batch
from stepvideo.emulator.calibrate import device_name
from stepvideo.emulator.machine import Target, of_device
from stepvideo.parallel.config import TrainParallelConfig
from stepvideo.parallel.train import TrainParallel
from stepvideo.training.monitor.cost import TRAINED, CostOf, DiTCost
from stepvideo.training.predict import Micro, plan_of, step_seconds


def precision_name(precision: str) -> str:
    return "fp32" if precision == "32-true" else "bf16"


def target_of(device: torch.device, precision: str) -> Target | None:
    """What is known of a device; None where nothing is."""
    return of_device(device_name(device), precision_name(precision))


def predictor(
    cost: DiTCost, target: Target, parallel: TrainParallelConfig, ranks: int
) -> Callable[[Sequence[Batch]], float]:
    """A function that gives the seconds of a step of these micro-batches of one rank."""
    layers = cost.cfg.num_layers

    @cache
    def seconds(shapes: tuple[tuple[int, int, int, int, int, int], ...]) -> float:
        parts = [Micro(b * cost.passes / TRAINED, (f, h, w)) for b, f, h, w, _, _ in shapes]
        plan = plan_of(parallel, ranks, layers, len(parts))
        *_, text, clip = shapes[0]
        return step_seconds(cost.cfg, parts, plan, target, text, clip).total

    return lambda micro: seconds(tuple(cost.shape(part) for part in micro if part["share"]))


class Record:
    """Predicted and measured seconds since the last log line, and of the whole run.

    `basis` says where the constants are from.
    """

    def __init__(self, predict: Callable[[Sequence[Batch]], float] | None = None, basis: str = "") -> None:
        self.predict, self.basis = predict, basis
        self.rows: list[tuple[float, float]] = []
        self.seconds = 0.0

    @classmethod
    def start(cls, cost: CostOf, parallel: TrainParallel, precision: str) -> Record:
        """One that predicts if it is a DiT that trains, on a device of which something is known."""
        target = target_of(parallel.device, precision)
        if target is None or not isinstance(cost, DiTCost):
            return cls()
        return cls(predictor(cost, target, parallel.cfg, parallel.world_size), target.basis)

    def add(self, micro: Sequence[Batch]) -> None:
        if self.predict is not None:
            self.seconds += self.predict(micro)

    def rates(self, steps: int, busy: float) -> dict[str, float]:
        """Of `steps` steps that took `busy` seconds, and a fresh start."""
        if self.predict is None:
            return {}
        predicted, self.seconds = self.seconds / steps, 0.0
        self.rows.append((predicted, busy / steps))
        return {"predicted_step_s": predicted, "prediction_error": predicted * steps / busy - 1}

    def summary(self) -> dict[str, float]:
        """Medians over the log lines; the first of several is left out, it warms up."""
        if not self.rows:
            return {}
        predicted, measured = (median(column) for column in zip(*(self.rows[1:] or self.rows)))
        return {"predicted_s": predicted, "measured_s": measured, "error": predicted / measured - 1}
