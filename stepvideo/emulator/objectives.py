"""Searches point by point: what an optimizer may vary, what a point is worth, and its neighbours.

`PlanProblem`: one plan for all sizes; how each point fits in memory (ZeRO, micro-batch, recomputation) is solved
inside, exhaustively, and the exhaustive search knows the optimum. `StreamProblem`: a mixed stream, whose every size has
a micro-batch and a number of recomputed layers of its own, all searched. Sizes only meet in the degrees, so its optimum
too can be computed, size by size: a yardstick for optimizers that do not know that.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from stepvideo.emulator.plan import Plan
from stepvideo.emulator.search import Choice
from stepvideo.emulator.space import Candidates, Job, Space, candidates, filled
from stepvideo.emulator.step import step

Point = dict[str, int]  # axis: value

SOLVED = ("zero", "micro_batch")  # how a plan fits in memory, beside how much it recomputes
SHARED = (("tensor", "context", -1), ("tensor", "pipeline", -1), ("context", "pipeline", -1))  # the same GPUs


@dataclass(frozen=True)
class Outcome:
    """What a point is worth. over: bytes above the budget, of the fullest rank; below 0: room."""

    seconds: float
    mfu: float
    over: float
    parts: int
    plans: tuple[Plan, ...]  # one a size

    @property
    def fits(self) -> bool:
        return self.over <= 0


class Problem(Protocol):
    """What `tasks.search` optimizes."""

    @property
    def axes(self) -> Mapping[str, Sequence[int]]: ...

    def allowed(self, axis: str, chosen: Point) -> Sequence[int]:
        """Values of an axis that can still become a plan, given those of the axes before it."""
        ...

    @property
    def trades(self) -> Sequence[tuple[str, str, int]]:
        """Pairs of axes of which one makes room for the other: 1 when both go the same way, -1 when not."""
        ...

    def outcome(self, point: Point) -> Outcome: ...

    def optimum(self) -> tuple[Point, Outcome] | None:
        """Exactly; None where nothing fits."""
        ...


class Tree:
    """Which values of axes can be combined, memory aside: those of `places`, flat indices into the grid of all."""

    def __init__(self, axes: Mapping[str, Sequence[int]], places: NDArray[np.intp]) -> None:
        self.axes = axes
        shape = [len(v) for v in axes.values()]
        rows = np.stack(np.unravel_index(np.unique(places), shape), axis=1).tolist()
        values = [tuple(axis[i] for axis, i in zip(axes.values(), row)) for row in rows]
        self._next: dict[tuple[int, ...], list[int]] = {}
        for depth in range(len(shape)):
            for head in sorted({v[: depth + 1] for v in values}):
                self._next.setdefault(head[:-1], []).append(head[-1])

    def allowed(self, axis: str, chosen: Mapping[str, int]) -> Sequence[int]:
        names = list(self.axes)
        return self._next.get(tuple(chosen[n] for n in names[: names.index(axis)]), ())


@dataclass(frozen=True)
class PlanProblem:
    """The degrees of one job that divide the network."""

    job: Job
    space: Space

    @property
    def axes(self) -> Mapping[str, Sequence[int]]:
        return self._axes

    @cached_property
    def _axes(self) -> dict[str, Sequence[int]]:
        return {n: v for n, v in self.space.axes.items() if n not in SOLVED}

    @property
    def trades(self) -> Sequence[tuple[str, str, int]]:
        return SHARED

    @cached_property
    def found(self) -> Candidates:
        return candidates(self.job, self.space)

    @cached_property
    def tree(self) -> Tree:
        inner = np.prod([len(self.space.axes[n]) for n in SOLVED], dtype=int)
        return Tree(self.axes, self.found.index // inner)

    def allowed(self, axis: str, chosen: Point) -> Sequence[int]:
        return self.tree.allowed(axis, chosen)

    def outcome(self, point: Point) -> Outcome:
        one = Space(**{n: (point[n],) if n in point else v for n, v in self.space.axes.items()})
        found = candidates(self.job, one)
        seconds = _seconds(self.job, found)
        best = int(np.argmin(seconds) if found.fits.any() else np.argmin(found.bytes))
        return _outcome([(self.job, found.plan.at(best), float(found.bytes[best]), 1.0)])

    def optimum(self) -> tuple[Point, Outcome] | None:
        seconds = _seconds(self.job, self.found)
        if not np.isfinite(seconds).any():
            return None
        best = self.found.plan.at(int(np.argmin(seconds)))
        point = {name: int(getattr(best, name)) for name in self.axes}
        return point, self.outcome(point)


@dataclass(frozen=True)
class StreamProblem:
    """A step is of one size at a time; `jobs` have a size, its batch and its memory each, `shares` say how often.

    Axes beside the space's degrees: `<size>.micro_batch`, and `<size>.recompute` in layers of all, every stage as many.
    """

    jobs: tuple[Job, ...]
    shares: tuple[float, ...]
    space: Space

    @property
    def names(self) -> list[str]:
        return [j.work.buckets[0].name for j in self.jobs]

    @property
    def axes(self) -> Mapping[str, Sequence[int]]:
        return self._axes

    @cached_property
    def _axes(self) -> dict[str, Sequence[int]]:
        degrees: dict[str, Sequence[int]] = {n: v for n, v in self.space.axes.items() if n != "micro_batch"}
        layers = range(self.jobs[0].work.network.layers + 1)
        own: dict[str, Sequence[int]] = {}
        for name in self.names:
            own |= {f"{name}.micro_batch": self.space.micro_batch, f"{name}.recompute": layers}
        return degrees | own

    @property
    def trades(self) -> Sequence[tuple[str, str, int]]:
        return (*SHARED, *((f"{name}.micro_batch", f"{name}.recompute", 1) for name in self.names))

    @cached_property
    def found(self) -> list[Candidates]:
        return [candidates(j, self.space) for j in self.jobs]

    @cached_property
    def common(self) -> NDArray[np.intp]:
        """Combinations of degrees under which every size has a micro-batch that divides its batch."""
        last = len(self.space.micro_batch)
        common = set(np.unique(self.found[0].index // last))
        for f in self.found[1:]:
            common &= set(np.unique(f.index // last))
        return np.array(sorted(common), dtype=np.intp)

    @cached_property
    def trees(self) -> list[Tree]:
        last = len(self.space.micro_batch)
        return [Tree(self.space.axes, f.index[np.isin(f.index // last, self.common)]) for f in self.found]

    def allowed(self, axis: str, chosen: Point) -> Sequence[int]:
        size, _, what = axis.rpartition(".")
        if not size:
            return self.trees[0].allowed(axis, chosen)
        if what == "recompute":
            return self.axes[axis][:: chosen["pipeline"]]
        return self.trees[self.names.index(size)].allowed("micro_batch", chosen)

    def outcome(self, point: Point) -> Outcome:
        rows = []
        for job, name, share in zip(self.jobs, self.names, self.shares):
            numbers: dict[str, Any] = {n: v for n, v in point.items() if "." not in n}
            numbers["micro_batch"] = point[f"{name}.micro_batch"]
            numbers["recompute"] = point[f"{name}.recompute"] / job.work.network.layers
            plan = filled(job, _plan(numbers))
            rows.append((job, plan, float(job.memory(plan)), share))
        return _outcome(rows)

    def optimum(self) -> tuple[Point, Outcome] | None:
        """The best micro-batch and recomputation of every size under each combination of degrees, and the best sum."""
        last = len(self.space.micro_batch)
        total = np.zeros(self.space.plans // last)
        chosen = []
        for job, share, found in zip(self.jobs, self.shares, self.found):
            seconds = np.full(self.space.plans, np.inf)
            seconds[found.index] = _seconds(job, found)
            table = seconds.reshape(-1, last)
            total = total + share * table.min(axis=1)
            chosen.append(table.argmin(axis=1))
        best = int(np.argmin(total))
        if not np.isfinite(total[best]):
            return None
        point: Point = {}
        for name, found, at in zip(self.names, self.found, chosen):
            plan = found.plan.at(int(np.searchsorted(found.index, best * last + at[best])))
            point = {n: int(getattr(plan, n)) for n in self.space.axes if n != "micro_batch"} | point
            layers = self.jobs[0].work.network.layers
            point |= {f"{name}.micro_batch": int(plan.micro_batch)}
            point |= {f"{name}.recompute": int(np.round(plan.recompute * layers))}
        return point, self.outcome(point)


def neighbours(problem: Problem, here: Point) -> Iterator[Point]:
    """Possible points nearby: two axes that trade with each other (`Problem.trades`), or one axis to the values beside,
    of a long axis also an eighth of it away. Axes after those that move follow where they must."""
    steps: dict[tuple[str, int], list[int]] = {}
    for name in problem.axes:
        values = list(problem.allowed(name, here))
        at = values.index(here[name])
        sides = {1: values[at + 1 :], -1: values[:at][::-1]}
        far = sorted({0, len(values) // 8})
        steps |= {(name, way): [side[i] for i in far if i < len(side)] for way, side in sides.items()}
    traded = [
        {a: first, b: second}
        for a, b, together in problem.trades
        for way in (1, -1)
        for first in steps[a, way][:1]
        for second in steps[b, way * together]
    ]
    beside = [{name: v} for (name, _), values in steps.items() for v in values]
    for move in (*traded, *beside):
        yield repaired(problem, {**here, **move})


def possible(problem: Problem, point: Point) -> bool:
    """Whether a point is a plan at all, memory aside."""
    return all(point[axis] in problem.allowed(axis, point) for axis in problem.axes)


def repaired(problem: Problem, wish: Mapping[str, int]) -> Point:
    """A possible point: along the axes, the nearest value (by ratio) that those before it still allow."""
    point: Point = {}
    for axis in problem.axes:
        wanted = math.log(wish[axis] + 1)
        point[axis] = min(problem.allowed(axis, point), key=lambda v: abs(math.log(v + 1) - wanted))
    return point


def _plan(numbers: dict[str, Any]) -> Plan:
    return Plan(**numbers)


def _seconds(job: Job, found: Candidates) -> NDArray[np.float64]:
    """Of every candidate; infinity where it does not fit."""
    if not len(found):
        return np.empty(0)
    total = np.broadcast_to(step(job.work, job.cluster, found.plan, job.calibration).total, found.plan.shape)
    return np.where(found.fits, total, np.inf)


def _outcome(rows: Sequence[tuple[Job, Plan, float, float]]) -> Outcome:
    """Of one plan a size: (job, plan, bytes, share of the steps)."""
    seconds = done = 0.0
    parts: set[Any] = set()
    for job, plan, _, share in rows:
        taken = step(job.work, job.cluster, plan, job.calibration)
        seconds += share * float(taken.total)
        done += share * float(taken.total) * float(taken.mfu)
        parts.add(Choice(plan, 0.0, 0.0, 0.0).parts)
    over = max(size - job.bytes for job, _, size, _ in rows)
    return Outcome(seconds, done / seconds, over, max(parts), tuple(replace(plan) for _, plan, _, _ in rows))
