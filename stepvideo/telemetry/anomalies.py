"""Anomalies as they happen: fed step by step, in constant memory, with a bound on false alarms (`sequential`).

    watch = Watch(Layout({0: "training0", 1: "training0", …}, tensor=4))
    for found in watch.step(120, {"forward": seconds_of_every_rank, "backward": …, "step": …}):
        print(found)                                     # found.where.nodes: whom to replace after a checkpoint

What is found in the tables of a run as a whole: `findings`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from stepvideo.telemetry.places import Layout, Place, blame
from stepvideo.telemetry.sections import DATA_WAIT, STEP, is_part, waits
from stepvideo.telemetry.sequential import Relative, log_threshold

Array = NDArray[np.float64]
SECTIONS = 16  # the threshold is for so many, or for as many as there are
GRACE = 5  # steps between the first rank over the threshold and the verdict: its group may be just behind


@dataclass(frozen=True)
class Bars:
    """What counts.

    margin: a unit that is at most so much slower than its peers is healthy.
    slack: of a step; what a section costs less than this matters to nobody.
    alpha, horizon: probability of any false alarm about ranks in so many steps.
    silent: steps of the others that a rank may miss.
    starved: share of a step spent waiting for data.
    slower: than predicted, by so much.
    duplicates: share of samples that an epoch sees again.
    drift: of a bucket's share of the samples, in points.
    spike: times the usual step.
    """

    margin: float = 0.03
    slack: float = 0.005
    alpha: float = 1e-3
    horizon: int = 1000
    silent: int = 20
    starved: float = 0.1
    slower: float = 0.2
    duplicates: float = 0.01
    drift: float = 0.05
    spike: float = 2.5


@dataclass(frozen=True)
class Anomaly:
    """Something to look at.

    kind: slow_rank | slow_node | slow_group | silent_rank | throughput_regression | below_prediction |
        data_starvation | duplicates | mix_drift | spike.
    since_step: where the evidence begins.
    evidence: figures, JSON-able.
    severity: "warning", or "note" of what is only told, such as a pause for a checkpoint.
    """

    kind: str
    where: Place
    since_step: int
    evidence: Mapping[str, Any]
    suggestion: str
    severity: str = "warning"

    def __str__(self) -> str:
        figures = ", ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in self.evidence.items())
        return f"{self.kind}: {self.where} since step {self.since_step} ({figures}); {self.suggestion}"


SUGGESTIONS = {
    "rank": "check the device of this rank (clocks, power, ECC, its link), replace its node after a checkpoint",
    "node": "run the node's checks and stress tests, replace it after a checkpoint",
    "group": "its ranks wait for one of them: bisect its nodes with a stress test, or record spans of the exchanges",
    DATA_WAIT: "the loader of this rank is slow: its storage, its network, or what its workers decode",
}


class _Level:
    """Units of one kind, and the tests of each section over them. members: of each unit, positions of its ranks."""

    def __init__(self, members: list[list[int]]) -> None:
        self.members = members
        self.tests: dict[str, Relative] = {}
        most = max(map(len, members), default=0)
        self._padded = np.array([ranks + [-1] * (most - len(ranks)) for ranks in members])

    def times(self, values: Array) -> Array:
        """Of each unit the (lower) median of its ranks, NaN if none was there."""
        if self._padded.shape[1:] == (1,):
            return values[self._padded[:, 0]]
        ordered = np.sort(np.append(values, np.nan)[self._padded], axis=1)  # NaN last
        known = np.isfinite(ordered).sum(1)
        return np.take_along_axis(ordered, np.maximum(known - 1, 0)[:, None] // 2, axis=1)[:, 0]


class Watch:
    """Watches the ranks of a running job: who is slow, who is silent."""

    def __init__(self, layout: Layout, bars: Bars | None = None) -> None:
        self.layout, self.bars = layout, bars or Bars()
        self.ranks = layout.ranks
        at = {rank: i for i, rank in enumerate(self.ranks)}
        self.levels = {"rank": _Level([[i] for i in range(len(self.ranks))])}
        for kind, groups in (("node", layout.by_node), ("group", layout.by_group)):
            if 1 < len(groups) < len(self.ranks):
                self.levels[kind] = _Level([[at[r] for r in sorted(ranks)] for ranks in groups.values()])
        self.told: set[Place] = set()
        self.missing = np.zeros(len(self.ranks), np.int64)
        self.crossed: int | None = None

    @property
    def threshold(self) -> float:
        units = sum(len(level.members) for level in self.levels.values())
        sections = max(SECTIONS, len(self.levels["rank"].tests))
        return log_threshold(units * sections, self.bars.horizon, self.bars.alpha)

    def step(self, step: int, seconds: Mapping[str, ArrayLike]) -> list[Anomaly]:
        """One step: seconds of each section, in the order of `layout.ranks`; NaN where a rank told nothing."""
        given = {name: np.asarray(values, np.float64) for name, values in seconds.items()}
        for name, values in given.items():
            if len(values) != len(self.ranks):
                raise ValueError(f"{name}: {len(values)} times for {len(self.ranks)} ranks; give NaN for who is absent")
        usual = median(step_seconds(given)) if given else 0.0
        for name, values in compared(given).items():
            self._compare(step, name, values, usual)
        return self._silent(step, given) + self._slow(step)

    def _compare(self, step: int, name: str, values: Array, usual: float) -> None:
        for level in self.levels.values():
            test = level.tests.setdefault(name, Relative(len(level.members), self.bars.margin))
            times = level.times(values)
            test.update(step, times, times - self.bars.slack * usual * (1 + self.bars.margin))

    def _silent(self, step: int, given: Mapping[str, Array]) -> list[Anomaly]:
        there = np.any([np.isfinite(v) for v in given.values()], axis=0) if given else np.zeros(len(self.ranks), bool)
        if there.any():
            self.missing = np.where(there, 0, self.missing + 1)
        return [
            silent(self.layout, self.ranks[i], step - self.bars.silent + 1, self.bars.silent)
            for i in np.flatnonzero(self.missing == self.bars.silent)
        ]

    def _slow(self, step: int) -> list[Anomaly]:
        over = self._over(self.threshold)
        known = self.layout.reach(rank for place in self.told for rank in place.ranks)
        lately = self._over(self.threshold / 2)
        self.told = {p for p in self.told if lately.intersection(p.ranks)}  # who has recovered may be told again
        if not over - known:
            self.crossed = None
            return []
        self.crossed = step if self.crossed is None else self.crossed
        if step < self.crossed + GRACE:
            return []
        self.crossed = None
        places = blame(lately - known, self.layout, self._over(self.threshold / 2, own=True) - known)
        found = []
        for place in places:
            if set(place.ranks) & over or not found:
                self.told.add(place)
                found.append(self._anomaly(place))
        return found

    def _over(self, level: float, own: bool = False) -> set[int]:
        """Ranks whose evidence has reached a level, and those of units that have which are slow themselves. own: only
        ranks, and only where waiting for others is known and left out."""
        found: set[int] = set()
        for kind, units in self.levels.items():
            for name, test in units.tests.items():
                if own and (kind != "rank" or not name.endswith(OWN)):
                    continue
                slow = self.levels["rank"].tests[name].excess > np.log1p(self.bars.margin)
                for i in np.flatnonzero(test.detector.level >= level):
                    found |= {self.ranks[j] for j in units.members[i] if kind == "rank" or slow[j]}
        return found

    def _anomaly(self, place: Place) -> Anomaly:
        at = [i for i, rank in enumerate(self.ranks) if rank in place.ranks]
        tests = self.levels["rank"].tests
        excess = {name: float(np.median(test.excess[at])) for name, test in tests.items()}
        strength = {name: float(np.max(test.detector.level[at])) for name, test in tests.items()}
        name = max(tests, key=lambda n: (strength[n] > 0, excess[n]))
        since = int(np.min(tests[name].detector.since[at]))
        return slow(place, name, since, excess[name], {"log_e": round(strength[name], 1)})


OWN = " (own)"  # of a section: without the spans inside of it in which other ranks are waited for


def compared(seconds: Mapping[str, Array]) -> dict[str, Array]:
    """Sections by which ranks are compared: parts of a step that do not wait for others, and of parts that hold such
    waiting also the rest."""
    found = {name: v for name, v in seconds.items() if is_part(name) and not waits(name)}
    for name in list(found):
        inside = [v for n, v in seconds.items() if n.startswith(f"{name}/") and waits(n)]
        if inside:
            found[name + OWN] = found[name] - sum(np.nan_to_num(v) for v in inside)
    return found


def median(values: Array) -> float:
    """The lower one of what is finite; 0 of nothing."""
    known = np.sort(values[np.isfinite(values)])
    return float(known[(len(known) - 1) // 2]) if len(known) else 0.0


def step_seconds(seconds: Mapping[str, Array]) -> Array:
    """Of every rank: its span `step`, or the sum of its parts."""
    if STEP in seconds:
        return seconds[STEP]
    parts = np.stack([v for name, v in seconds.items() if is_part(name)])
    return np.where(np.isfinite(parts).any(0), np.nansum(parts, 0), np.nan)


def slow(place: Place, section: str, since: int, excess: float, more: Mapping[str, Any] | None = None) -> Anomaly:
    """excess: log of its time over its peers'."""
    what = DATA_WAIT if section == DATA_WAIT else place.kind
    evidence = {"section": section, "slower": float(np.expm1(excess)), **(more or {})}
    return Anomaly(f"slow_{place.kind}", place, since, evidence, SUGGESTIONS[what])


def silent(layout: Layout, rank: int, since: int, steps: int) -> Anomaly:
    return Anomaly(
        "silent_rank", layout.rank(rank), since, {"missing_steps": steps},
        "its recorder or its shipper has stopped, or the rank hangs while others go on: see its log and its node",
    )  # fmt: skip
