"""Which plans a search looks at: every combination of a few degrees that the network, the GPUs and the batch allow.

How much is recomputed is not searched but solved: memory falls and time rises with it, so the least that fits is best.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stepvideo.emulator.calibration import Calibration
from stepvideo.emulator.hardware import Cluster
from stepvideo.emulator.plan import NUMBERS, Plan, grid, problems
from stepvideo.emulator.workload import Workload
from stepvideo.errors import ConfigError

Array = NDArray[Any]


@dataclass(frozen=True)
class Space:
    """The values that each degree may take; `Plan` says what they are."""

    tensor: tuple[int, ...] = (1, 2, 4, 8)
    context: tuple[int, ...] = (1, 2, 3, 4, 6, 8)
    pipeline: tuple[int, ...] = (1, 2, 3, 4, 6, 8, 12, 16)
    virtual: tuple[int, ...] = (1, 2, 3, 4, 6, 8, 12, 16, 24, 48)
    zero: tuple[int, ...] = (0, 1, 2, 3)
    micro_batch: tuple[int, ...] = (1, 2, 4, 8)

    def __post_init__(self) -> None:
        for name, values in self.axes.items():
            if not values or min(values) < (0 if name == "zero" else 1) or len(set(values)) < len(values):
                raise ConfigError(f"{name}={list(values)}: give at least one number, none twice, of 1 or more")

    @property
    def axes(self) -> dict[str, tuple[int, ...]]:
        return {f.name: getattr(self, f.name) for f in fields(self)}

    @property
    def plans(self) -> int:
        return int(np.prod([len(v) for v in self.axes.values()]))


@dataclass(frozen=True)
class Job:
    """What plans are searched for.

    batch: samples of a step, all ranks together. memory: bytes of the fullest rank under each plan (of any shape).
    budget: bytes of a GPU; 0: all it has. packs: the batch comes in so many packs, of which every data rank has as many
    (report §6.2.4); 0: in single samples.
    """

    work: Workload
    cluster: Cluster
    batch: int
    memory: Callable[[Plan], Array]
    calibration: Calibration = Calibration()
    budget: float = 0.0
    packs: int = 0

    def __post_init__(self) -> None:
        if self.batch < 1:
            raise ConfigError(f"batch={self.batch}: give the samples of a step, 1 or more")
        if self.budget < 0:
            raise ConfigError(f"budget={self.budget:g}: give the bytes of a GPU, more than 0")

    @cached_property
    def bytes(self) -> float:
        return self.budget or self.cluster.gpu.memory


@dataclass(frozen=True)
class Candidates:
    """Plans that can run, flat, with what they need when as little as possible is recomputed.

    refused: plans by the first reason that rules them out. Of `plan`, those of `fits` are in memory; the others are
    not, even when everything is recomputed. index: where each lies in the grid of the space's axes, flat.
    """

    plan: Plan
    index: NDArray[np.intp]
    bytes: Array
    fits: NDArray[np.bool_]
    refused: dict[str, int]
    looked_at: int  # plans
    configurations: int  # and how much they recompute, layer by layer

    def __len__(self) -> int:
        return len(self.bytes)


def candidates(job: Job, space: Space) -> Candidates:
    """Every plan of the space, sorted out."""
    plan = filled(job, grid(space.axes))
    layers, shape, refused = job.work.network.layers, plan.shape, {}
    alive = np.ones(shape, dtype=bool)
    for reason, mask in reasons(job, plan).items():
        if count := int((alive & mask).sum()):
            refused[reason] = count
        alive = alive & ~mask
    numbers = {n: np.broadcast_to(getattr(plan, n), shape)[alive] for n in NUMBERS}
    flat, size, fits = solve_recompute(job, replace(plan, **numbers))
    if over := int((~fits).sum()):
        refused[f"more than {job.bytes / 1e9:g} GB although every layer recomputes"] = over
    return Candidates(flat, np.flatnonzero(alive), size, fits, refused, space.plans, space.plans * (layers + 1))


def filled(job: Job, plan: Plan) -> Plan:
    """With the data ranks and micro-batches that use all GPUs and the whole batch, as far as they divide."""
    data = job.cluster.gpus // plan.network
    return replace(plan, data=data, micro_batches=job.batch // np.maximum(data * plan.micro_batch, 1))


def reasons(job: Job, plan: Plan) -> dict[str, NDArray[np.bool_]]:
    """What rules plans out, memory aside: that of the cluster and the batch first, then `plan.problems`."""
    gpus, layers = job.cluster.gpus, job.work.network.layers
    found = {
        f"tensor · context · pipeline does not divide {gpus} GPUs": gpus % plan.network != 0,
        f"data · micro_batch does not divide the batch of {job.batch}": plan.samples != job.batch,
        f"pipeline · virtual does not divide {layers} layers": layers % (plan.pipeline * plan.virtual) != 0,
        "zero has no ranks to divide among": (plan.zero > 0) & (plan.data * plan.context == 1),
    }
    if job.packs:
        found[f"data does not divide {job.packs} packs"] = job.packs % np.maximum(plan.data, 1) != 0
    return found | problems(plan, job.work, job.cluster)


def solve_recompute(job: Job, plan: Plan) -> tuple[Plan, Array, NDArray[np.bool_]]:
    """The least share of layers of a stage to recompute with which each plan fits, its bytes, and whether it does.

    Where it never does, all layers recompute. Bisected over whole layers of a stage: the first one may cost memory, as
    it is there a second time while it is recomputed, and from then on memory falls.
    """
    own = job.work.network.layers // plan.pipeline

    def size(layers: Array) -> Array:
        return np.broadcast_to(job.memory(replace(plan, recompute=layers / own)), plan.shape)

    none, low, high = np.zeros_like(own), np.ones_like(own), own
    fits_whole = size(none) <= job.bytes
    while (low < high).any():
        middle = (low + high) // 2
        enough = size(middle) <= job.bytes
        low, high = np.where(enough, low, np.minimum(middle + 1, high)), np.where(enough, middle, high)
    layers = np.where(fits_whole, none, high)
    needed = size(layers)
    return replace(plan, recompute=layers / own), needed, needed <= job.bytes
