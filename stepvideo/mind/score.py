"""A node's quality: the probability that it stays in order for the next 30 days of service (report §6.5).

Nodes differ: each has its own rate of failures, λ a day, drawn from a Gamma distribution over the fleet (a, b). Its
history is evidence of λ: n failures in T days, so λ is Gamma(a + n, b + T), and

    score = P(no failure in h days) = ((b + T) / (b + T + h)) ** (a + n),    h = 30.

    n   sum of weights of alerts (1: ended a job; less: slowed it) and of failed stress tests, each halved for every
        `half_life` days that have passed. What a reboot mended, as a stress test showed, counts 0.3 of it: such faults
        come to any node, and it is their return that tells; what was replaced since counts 0.2, in its category
    T   days in service, halved alike, and passed load tests, whose hours count as `acceleration` hours of service

A small `a` says that few nodes cause most failures; `fit` finds a and b from a fleet. A score is comparable with what a
pool asks: `least_score` 0.991 is the report's 0.9 % of failing nodes a month, a new node has its 7.0 %.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import exp, inf, lgamma, log

from stepvideo.mind.nodes import Kind, Record, State

DAY = 86400.0


@dataclass(frozen=True)
class Prior:
    """Of the rate of failures a day: Gamma with this shape, and `days` for its rate parameter."""

    shape: float = 0.05
    days: float = 9.17  # with that shape 7.0 % of new nodes fail within 30 days, the report's average before selection


@dataclass(frozen=True)
class Scoring:
    """Constants of the score, in days unless it says otherwise."""

    prior: Prior = Prior()
    horizon: float = 30.0
    half_life: float = 180.0
    acceleration: float = 24.0  # an hour of load test counts as a day of service
    failed_stress: float = 0.5  # of a failure
    kept_when_rebooted: float = 0.3  # of the evidence of faults that a reboot mended
    kept_when_replaced: float = 0.2  # and of those in the category that was replaced


@dataclass(frozen=True)
class Evidence:
    """Failures and days, both weighted by how recent they are."""

    failures: float = 0.0
    days: float = 0.0


def score(record: Record, now: float, scoring: Scoring = Scoring()) -> float:
    """In (0, 1); see the file's beginning."""
    return survival(evidence(record, now, scoring), scoring)


def survival(found: Evidence, scoring: Scoring = Scoring()) -> float:
    b = scoring.prior.days + found.days
    return (b / (b + scoring.horizon)) ** (scoring.prior.shape + found.failures)


def evidence(record: Record, now: float, scoring: Scoring = Scoring()) -> Evidence:
    """What a history amounts to at a moment; entries from after it do not count."""
    past = [e for e in record.history if e.time <= now]
    repairs = [e for e in past if e.kind == Kind.REPAIR and e.ok]
    replaced = {e.category: e.time for e in repairs if e.name == "replace"}
    passed = max((e.time for e in past if e.kind == Kind.STRESS and e.ok), default=-inf)
    rebooted = max((e.time for e in repairs if e.name == "reboot" and e.time <= passed), default=-inf)
    failures = days = 0.0
    for e in past:
        recent = _weight(now - e.time, scoring)
        if e.kind == Kind.ALERT:
            kept = scoring.kept_when_rebooted if rebooted >= e.time else 1.0
            if replaced.get(e.category, -inf) >= e.time:
                kept = min(kept, scoring.kept_when_replaced)
            failures += e.weight * kept * recent
        elif e.kind == Kind.STRESS and not e.ok:
            failures += scoring.failed_stress * recent
        elif e.kind == Kind.STRESS:
            days += e.seconds / DAY * scoring.acceleration * recent
    for begun, ended in _in_service(record, now):
        days += _days(now - ended, now - begun, scoring)
    return Evidence(failures, days)


def _weight(age: float, scoring: Scoring) -> float:
    return 0.5 ** (age / DAY / scoring.half_life)


def _days(newest: float, oldest: float, scoring: Scoring) -> float:
    """Integral of the weight between two ages."""
    return scoring.half_life / log(2) * (_weight(newest, scoring) - _weight(oldest, scoring))


def _in_service(record: Record, now: float) -> list[tuple[float, float]]:
    found, begun = [], None
    for e in record.history:
        if e.kind != Kind.STATE or e.time > now:
            continue
        if begun is None and e.name == State.IN_SERVICE:
            begun = e.time
        elif begun is not None and e.name != State.IN_SERVICE:
            found.append((begun, e.time))
            begun = None
    return found + ([(begun, now)] if begun is not None else [])


def fit(fleet: Sequence[Evidence], least: float = 3.0, otherwise: Prior = Prior()) -> Prior:
    """The prior under which a fleet's evidence is likeliest (empirical Bayes).

    n of a node with T days follows a negative binomial; for each shape the best `days` is the root of a monotone
    function, and the shape is searched on a grid of logarithms, finer around its best.

    Args:
        least: with fewer failures than that in all, `otherwise` is returned: nothing can be learnt.
    """
    seen = [e for e in fleet if e.days > 0]
    if sum(e.failures for e in seen) < least:
        return otherwise
    span, best = (log(1e-3), log(1e2)), 0.0
    for _ in range(3):
        step = (span[1] - span[0]) / 24
        grid = [span[0] + i * step for i in range(25)]
        best = max(grid, key=lambda x: _likelihood(exp(x), seen))
        span = (best - step, best + step)
    shape = exp(best)
    return Prior(shape, _best_days(shape, seen))


def _best_days(shape: float, seen: Sequence[Evidence]) -> float:
    low, high = 1e-6, 1e9
    for _ in range(45):
        b = (low * high) ** 0.5
        slope = sum(shape - (shape + e.failures) * b / (b + e.days) for e in seen)
        low, high = (b, high) if slope > 0 else (low, b)
    return low


def _likelihood(shape: float, seen: Sequence[Evidence]) -> float:
    b = _best_days(shape, seen)
    return sum(
        lgamma(shape + e.failures) - lgamma(shape) + shape * log(b) - (shape + e.failures) * log(b + e.days)
        for e in seen
    )
