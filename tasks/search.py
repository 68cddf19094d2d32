"""Searches of plans with Optuna: trials kept in a journal, so that a killed search goes on; told to MLflow.

A trial is a function of the trials before it and of the seed alone: a search that was killed comes to the same result.
After some trials of TPE, neighbours of the best plan so far take turns with it (`OptunaSearch`); random search, with
and without those neighbours, is what it is measured against.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import zip_longest
from pathlib import Path

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, IntDistribution
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, Trial, TrialState, create_trial

from stepvideo.emulator.objectives import Outcome, Point, Problem, neighbours, repaired
from stepvideo.errors import ConfigError

SAMPLERS = ("tpe", "random")
OBJECTIVES = {"mfu": "maximize", "headroom": "maximize", "parts": "minimize"}
"""MFU; bytes that are left of a GPU's memory; kinds of parallelism in use, of which the report wants few."""

PATIENCE = 30  # samples in a row that are nothing new
GB = 1e9


@dataclass(frozen=True)
class Method:
    """How points are proposed. climbs: from trial `start` on, neighbours of the `hills` best points that differ in
    `apart` axes take turns with the sampler."""

    sampler: str = "tpe"
    climbs: bool = True
    start: int = 20
    hills: int = 3
    apart: int = 2
    objectives: tuple[str, ...] = ("mfu",)

    def __post_init__(self) -> None:
        if self.sampler not in SAMPLERS:
            raise ConfigError(f"sampler={self.sampler!r}: give one of {', '.join(SAMPLERS)}")
        if not self.objectives or set(self.objectives) - set(OBJECTIVES):
            raise ConfigError(f"objectives={list(self.objectives)}: give some of {', '.join(OBJECTIVES)}")
        if self.start < 1:
            raise ConfigError(f"start={self.start}: give 1 trial or more")

    @property
    def name(self) -> str:
        return self.sampler + " and neighbours" * self.climbs


@dataclass
class OptunaSearch:
    """One study: `run(budget)` evaluates points until there are `budget`, whatever was there before.

    warm: points that are tried first, such as the optimum of a smaller problem.
    """

    problem: Problem
    method: Method = field(default_factory=Method)
    seed: int = 0
    storage: Path | None = None  # a file; None: kept in memory only
    name: str = "plans"
    warm: Sequence[Point] = ()

    def __post_init__(self) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        logging.getLogger("optuna").setLevel(logging.WARNING)
        directions = [OBJECTIVES[o] for o in self.method.objectives]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", category=optuna.exceptions.ExperimentalWarning)
            self.study = optuna.create_study(
                storage=self._storage(), study_name=self.name, directions=directions, load_if_exists=True
            )
        for trial in self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            self.study.tell(trial.number, state=TrialState.FAIL)  # of a killed search
        self._near: dict[tuple[int, ...], list[Point]] = {}

    def _storage(self) -> JournalStorage | None:
        if self.storage is None:
            return None
        self.storage.parent.mkdir(parents=True, exist_ok=True)
        return JournalStorage(JournalFileBackend(str(self.storage)))

    @property
    def trials(self) -> list[FrozenTrial]:
        return self.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))

    def run(self, budget: int) -> Iterator[tuple[int, Point, Outcome]]:
        """Evaluates, and yields what was evaluated: (number, point, outcome).

        Ends at `budget` different points in all, or where nothing new is found.
        """
        while (done := len(self.trials)) < budget:
            found = self._next(done)
            if found is None:
                return
            yield done, *found

    def _next(self, number: int) -> tuple[Point, Outcome] | None:
        """Evaluates one more point."""
        tried = {self._key(_point(t)) for t in self.trials}
        if number < len(self.warm):
            return self._add(dict(self.warm[number]))
        climbs = self.method.climbs and number >= self.method.start
        if climbs and number % 2 and (point := self._neighbour(tried)):
            return self._add(point)
        return self._sampled(number, tried) or (self._add(p) if (p := self._neighbour(tried)) else None)

    def _neighbour(self, tried: set[tuple[int, ...]]) -> Point | None:
        """The first new neighbour of the best points."""
        fitting = [t for t in self.trials if t.user_attrs["outcome"]["over"] <= 0]
        hills: list[Point] = []
        for t in sorted(fitting, key=lambda t: (-t.user_attrs["outcome"]["mfu"], t.number)):
            point = _point(t)
            if all(sum(point[a] != h[a] for a in point) >= self.method.apart for h in hills):
                hills.append(point)
            if len(hills) == self.method.hills:
                break
        turns = zip_longest(*(self._around(h) for h in hills))
        return next((p for turn in turns for p in turn if p and self._key(p) not in tried), None)

    def _around(self, point: Point) -> list[Point]:
        key = self._key(point)
        if key not in self._near:
            self._near[key] = list(neighbours(self.problem, point))
        return self._near[key]

    def _sampled(self, number: int, tried: set[tuple[int, ...]]) -> tuple[Point, Outcome] | None:
        """A new point by the sampler; None where it only repeats itself."""
        self.study.sampler = self._sampler(number)
        for _ in range(PATIENCE):
            trial = self.study.ask()
            wish = {axis: _suggest(trial, axis, values) for axis, values in self.problem.axes.items()}
            point = repaired(self.problem, wish)
            if self._key(point) in tried:
                self.study.tell(trial, state=TrialState.FAIL)
                continue
            outcome = self.problem.outcome(point)
            for name, value in _about(point, outcome).items():
                trial.set_user_attr(name, value)
            for name, value in _constraints(outcome).items():
                trial.set_constraint(name, value)
            self.study.tell(trial, self._values(outcome))
            return point, outcome
        return None

    def _add(self, point: Point) -> tuple[Point, Outcome]:
        """A point of ours, which the sampler learns from."""
        outcome = self.problem.outcome(point)
        self.study.add_trial(
            create_trial(
                values=self._values(outcome),
                params=point,
                distributions={a: _distribution(values) for a, values in self.problem.axes.items()},
                user_attrs=_about(point, outcome),
                constraints=_constraints(outcome),
            )
        )
        return point, outcome

    def _key(self, point: Point) -> tuple[int, ...]:
        return tuple(point[axis] for axis in self.problem.axes)

    def _values(self, outcome: Outcome) -> list[float]:
        values = {"mfu": outcome.mfu, "headroom": -outcome.over / GB, "parts": float(outcome.parts)}
        return [values[o] for o in self.method.objectives]

    def _sampler(self, number: int) -> optuna.samplers.BaseSampler:
        seed = (self.seed * 1_000_003 + number) % 2**32
        if self.method.sampler == "random":
            return optuna.samplers.RandomSampler(seed=seed)
        return optuna.samplers.TPESampler(seed=seed, n_startup_trials=min(20, self.method.start))

    def best(self) -> tuple[Point, float] | None:
        """The point that fits with the most MFU, and that; the first of equal ones."""
        fitting = [t for t in self.trials if t.user_attrs["outcome"]["over"] <= 0]
        if not fitting:
            return None
        trial = max(fitting, key=lambda t: (t.user_attrs["outcome"]["mfu"], -t.number))
        return _point(trial), trial.user_attrs["outcome"]["mfu"]

    def curve(self) -> list[float]:
        """The most MFU that fits after each trial; 0 before anything fits."""
        best, found = 0.0, []
        for t in self.trials:
            about = t.user_attrs["outcome"]
            best = max(best, about["mfu"] if about["over"] <= 0 else 0.0)
            found.append(best)
        return found

    def front(self) -> list[FrozenTrial]:
        """Trials that fit and that none is better than in all objectives, the most MFU first."""
        first = {}
        for t in self.study.best_trials if len(self.method.objectives) > 1 else []:
            if t.user_attrs["outcome"]["over"] <= 0:
                first.setdefault(tuple(t.values), t)
        return sorted(first.values(), key=lambda t: -t.user_attrs["outcome"]["mfu"])


def _distribution(values: Sequence[int]) -> BaseDistribution:
    """Long rows of numbers have an order that is worth telling; of a few degrees each is its own kind."""
    if isinstance(values, range) or len(values) > 12:
        return IntDistribution(values[0], values[-1])
    return CategoricalDistribution(list(values))


def _suggest(trial: Trial, axis: str, values: Sequence[int]) -> int:
    kind = _distribution(values)
    if isinstance(kind, IntDistribution):
        return trial.suggest_int(axis, kind.low, kind.high)
    return trial.suggest_categorical(axis, list(values))


def _about(point: Point, outcome: Outcome) -> dict[str, dict[str, float]]:
    numbers = {"seconds": outcome.seconds, "mfu": outcome.mfu, "over": outcome.over, "parts": outcome.parts}
    return {"point": dict(point), "outcome": numbers}


def _constraints(outcome: Outcome) -> dict[str, float]:
    """Above 0 is infeasible."""
    return {"memory": outcome.over / GB}


def _point(trial: FrozenTrial) -> Point:
    return dict(trial.user_attrs["point"])


@dataclass(frozen=True)
class Comparison:
    """The MFU that methods found with equally many evaluations; exact: the optimum, where it is known."""

    ours: float
    random: float
    random_and_neighbours: float
    exact: float | None

    @property
    def verdict(self) -> str:
        """Whether Optuna was of use here."""
        if self.ours <= self.random:
            return "Optuna is of no use here: random search finds as much"
        if self.ours <= self.random_and_neighbours:
            return "Optuna's sampler is of no use here: random points and their neighbours find as much"
        return f"better than random search by {100 * (self.ours - self.random):.2f} points of MFU"


def compare(search: OptunaSearch, exact: float | None) -> Comparison:
    """What the search found, beside the same number of random points from the same start, and those with neighbours."""
    found = []
    for climbs in (False, True):
        method = replace(search.method, sampler="random", climbs=climbs, objectives=("mfu",))
        other = OptunaSearch(search.problem, method, search.seed, warm=search.warm)
        for _ in other.run(len(search.trials)):
            pass
        found.append(other.best())
    return Comparison(*(best[1] if best else 0.0 for best in (search.best(), *found)), exact=exact)
