"""Policies through the same months, and how sure their differences are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import mean, stdev
from typing import Any

from stepvideo.mind.simulate.assumptions import Month
from stepvideo.mind.simulate.month import Outcome, run
from stepvideo.mind.simulate.policies import POLICIES

OURS, NAIVE = "stepmind", "one signal"
BAR = 0.99  # of effective time at the report's rates


@dataclass(frozen=True)
class Mean:
    """With its 95 % interval, by Student's t over months."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{100 * self.value:.2f} ({100 * self.low:.2f} to {100 * self.high:.2f})"


def interval(values: Sequence[float]) -> Mean:
    """Raises ValueError: fewer than two values."""
    from scipy.stats import t

    if len(values) < 2:
        raise ValueError(f"an interval needs at least 2 months, not {len(values)}")
    centre = mean(values)
    half = float(t.ppf(0.975, len(values) - 1)) * stdev(values) / len(values) ** 0.5
    return Mean(centre, centre - half, centre + half)


@dataclass(frozen=True)
class Compared:
    """Outcomes of every policy, {policy: a month each}."""

    month: Month
    outcomes: dict[str, list[Outcome]]

    def effective(self, policy: str) -> Mean:
        return interval([o.effective for o in self.outcomes[policy]])

    def gain(self, over: str = NAIVE) -> Mean:
        """Effective time of StepMind less that of another policy, month by month."""
        return interval([a.effective - b.effective for a, b in zip(self.outcomes[OURS], self.outcomes[over])])

    def missed(self) -> list[str]:
        """Bars of issue 7 that do not hold."""
        said = []
        reached = self.effective(OURS)
        if self.month.times == 1 and reached.value < BAR:
            said.append(f"effective time {reached} % at the report's rates, at least {100 * BAR:g} % is asked")
        if (gain := self.gain()).low <= 0:
            said.append(f"the gain over {NAIVE!r} at {self.month.times:g} × the report's rates is {gain} points")
        return said

    def rows(self) -> list[dict[str, Any]]:
        """A line a policy; hours and counts a month."""
        return [_row(policy, outcomes) for policy, outcomes in self.outcomes.items()]


def _row(policy: str, outcomes: list[Outcome]) -> dict[str, Any]:
    causes: Counter[str] = sum((o.restarts for o in outcomes), Counter())
    n = len(outcomes)
    hours = {
        name: mean(getattr(o, f"{name}_s") for o in outcomes) / 3600
        for name in ("lost", "detecting", "down", "waiting", "holding", "slowed")
    }
    return {
        "policy": policy,
        "effective": vars(interval([o.effective for o in outcomes])),
        "productive": vars(interval([o.productive for o in outcomes])),
        "restarts": sum(causes.values()) / n,
        "false": causes["noise"] / n,
        "asked": mean(o.asked for o in outcomes),
        "hours": hours,
        "causes": {cause: count / n for cause, count in causes.most_common()},
    }


def compare(month: Month, months: int, done: Callable[[], None] = lambda: None) -> Compared:
    """Every policy through that many months. done: is called after each."""
    outcomes: dict[str, list[Outcome]] = {}
    for policy in POLICIES:
        for seed in range(months):
            outcomes.setdefault(policy, []).append(run(month, seed, policy))
            done()
    return Compared(month, outcomes)
