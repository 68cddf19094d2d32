"""The emulator judged at every run: seconds of a step as predicted from the batch's shapes, beside the measured ones.

What is predicted is the step on this machine with its calibration (`stepvideo emulate calibrate`), or by the priors of
its GPU. It changes nothing of the training.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import cache
from statistics import median
from typing import Any

import torch

from stepvideo.data.source import Batch
from stepvideo.emulator.calibrate import device_name
from stepvideo.emulator.machine import Target, of_device
from stepvideo.parallel.config import TrainParallelConfig
from stepvideo.parallel.train import TrainParallel
from stepvideo.training.monitor.cost import TRAINED, CostOf, DiTCost
from stepvideo.training.predict import Micro, plan_of, step_seconds

LAST, SIZES = 512, 12  # steps of a size that are remembered, and sizes that are told

Size = tuple[tuple[float, int, int, int], ...]  # of every micro-batch: samples; latent frames, height and width


def precision_name(precision: str) -> str:
    return "fp32" if precision == "32-true" else "bf16"


def target_of(device: torch.device, precision: str) -> Target | None:
    """What is known of a device; None where nothing is."""
    return of_device(device_name(device), precision_name(precision))


def size_of(cost: DiTCost, micro: Sequence[Batch]) -> tuple[Size, int, int]:
    """Of a step of one rank, with a prompt's tokens and those of them that are CLIP's. Samples that pass the network
    more often than in a training count for more."""
    shapes = [cost.shape(part) for part in micro if part["share"]]
    *_, text, clip = shapes[0] if shapes else (0, 0)
    return tuple((b * cost.passes / TRAINED, f, h, w) for b, f, h, w, _, _ in shapes), text, clip


def predictor(
    cost: DiTCost, target: Target, parallel: TrainParallelConfig, ranks: int
) -> Callable[[Size, int, int], float]:
    """A function that gives the seconds of a step of that size, with that many tokens of a prompt and of CLIP."""

    @cache
    def seconds(size: Size, text: int, clip: int) -> float:
        plan = plan_of(parallel, ranks, cost.cfg.num_layers, len(size))
        return step_seconds(cost.cfg, [Micro(b, (f, h, w)) for b, f, h, w in size], plan, target, text, clip).total

    return seconds


class Record:
    """Predicted and measured seconds since the last log line, of the whole run, and by the size of a step.

    `basis` says where the constants are from; `about` what besides its size a step's time follows from.
    """

    def __init__(
        self,
        cost: DiTCost | None = None,
        predict: Callable[[Size, int, int], float] | None = None,
        basis: str = "",
        about: Mapping[str, Any] | None = None,
    ) -> None:
        self.cost, self.predict, self.basis, self.about = cost, predict, basis, about or {}
        self.rows: list[tuple[float, float]] = []
        self.seconds = 0.0
        self.warm = False
        self.sizes: dict[Size, deque[tuple[float, float, int, int]]] = {}

    @classmethod
    def start(cls, cost: CostOf, parallel: TrainParallel, precision: str) -> Record:
        """One that predicts if it is a DiT that trains, on a device of which something is known."""
        if not isinstance(cost, DiTCost):
            return cls()
        about = {"device": device_name(parallel.device), "precision": precision_name(precision)}
        about |= {"ranks": parallel.world_size, "parallel": asdict(parallel.cfg), "dit": asdict(cost.cfg)}
        target = target_of(parallel.device, precision)
        if target is None:
            return cls(cost, about=about)
        return cls(cost, predictor(cost, target, parallel.cfg, parallel.world_size), target.basis, about)

    def add(self, micro: Sequence[Batch], busy: float) -> float:
        """A step that took so many seconds; those predicted of it, 0 if none are. The first one warms up and is not
        kept by size."""
        if self.cost is None:
            return 0.0
        size, text, clip = size_of(self.cost, micro)
        predicted = self.predict(size, text, clip) if self.predict and size else 0.0
        self.seconds += predicted
        if self.warm and size:
            self.sizes.setdefault(size, deque(maxlen=LAST)).append((busy, predicted, text, clip))
        self.warm = True
        return predicted

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

    def by_size(self) -> dict[str, Any]:
        """JSON-able medians of the sizes that came most often: all that `stepvideo.training.tracked` predicts them
        anew from."""
        often = sorted(self.sizes.items(), key=lambda item: -len(item[1]))[:SIZES]
        names = ("measured_s", "predicted_s", "text", "clip")
        rows = [{"micro": s, "steps": len(seen), **dict(zip(names, map(median, zip(*seen))))} for s, seen in often]
        return {**self.about, "sizes": rows}
