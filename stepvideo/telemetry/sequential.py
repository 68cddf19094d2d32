"""Sequential tests that may look at every step for ever and still say how often they cry wolf.

A unit (a rank, a node, a group) *hits* in a step if its time, divided by 1 + margin, still lies among the `top` largest
of the n units' times. If it is at most `margin` slower than units that are otherwise alike, its rank among them is
uniform or better, so P(hit) ≤ p = top / n: whatever the distribution of times, however heavy its tails, and whatever
happens to all units at once (checkpoints, a slow file system, a large bucket), because only ranks within a step count.

A step is a bet at these odds: the e-value e = a on a hit and b otherwise, with p a + (1 - p) b = 1, has E[e] ≤ 1. Each
test is a Shiryaev-Roberts e-detector (Shin, Ramdas, Rinaldo, "E-detectors", arXiv:2203.03532):

    M_t = (M_{t-1} + 1) e_t,    M_0 = 0,    alarm when M_t ≥ c

M_t - t is a supermartingale, so at the first alarm or after T steps, whichever comes first, E[M] ≤ T: by Markov's
inequality P(alarm within T steps) ≤ T / c. All k tests together raise a false alarm in any T steps with probability

    P ≤ k T / c,    so    c = k T / alpha

Independence is needed over steps only, and only of the ranks' order; the margin keeps small persistent differences
between healthy machines on the harmless side. Delay: a unit that always hits gains log a a step, for n ≥ 4 about
1.2 nats; 1,024 ranks, 6 sections, T = 1,000 and alpha = 0.001 give log c = 22.5, that is 19 steps.
"""

from __future__ import annotations

import math
from bisect import bisect_left, insort

import numpy as np
from numpy.typing import ArrayLike, NDArray

TOP = 0.25  # share of units that count as hits: so many may be slow at once and still be seen
BET = 0.85  # P(hit) of a slow unit for which the bet is the best one (Kelly)
CAP = 40.0  # log M grows no further, above any threshold: who has recovered is told from who has not within some steps


def log_threshold(tests: int, steps: int, alpha: float) -> float:
    """log c such that `tests` detectors together raise a false alarm in `steps` steps with probability ≤ alpha."""
    return math.log(tests * steps / alpha)


def top_of(units: int) -> int:
    """How many of so many units count as the top."""
    return max(1, int(units * TOP))


class Detector:
    """Shiryaev-Roberts e-detectors of many units, in the memory of a few numbers each.

    Attributes:
        level: log M of each unit.
        since: step from which on the evidence comes.
    """

    def __init__(self, units: int) -> None:
        self.level = np.full(units, -np.inf)
        self.since = np.zeros(units, np.int64)

    def update(self, step: int, hits: NDArray[np.bool_], p: float, seen: NDArray[np.bool_]) -> None:
        """One step.

        Args:
            hits, seen: of each unit; one that was not seen has no bet.
            p: probability of a hit of a healthy unit, below 1.
        """
        bet = max(BET, (1 + p) / 2)
        grown = np.logaddexp(self.level, 0) + np.where(hits, math.log(bet / p), math.log((1 - bet) / (1 - p)))
        self.since = np.where(seen & (self.level <= 0), step, self.since)
        self.level = np.where(seen, np.minimum(grown, CAP), self.level)


class Relative:
    """Units compared with each other, step by step."""

    def __init__(self, units: int, margin: float) -> None:
        self.margin = margin
        self.detector = Detector(units)
        self._log, self._steps = np.zeros(units), np.zeros(units)

    @property
    def excess(self) -> NDArray[np.float64]:
        """Mean log(time / median of the units) of each unit since its evidence began."""
        return self._log / np.maximum(self._steps, 1)

    def update(self, step: int, times: ArrayLike, lowered: ArrayLike | None = None) -> None:
        """Times of the units; NaN where there is none. With fewer than two there is nothing to compare.

        Args:
            lowered: the times as they are held against the others', at most `times`, before the margin is taken off.
        """
        times = np.asarray(times, np.float64)
        seen = np.isfinite(times)
        known = np.sort(times[seen])
        n = len(known)
        if n < 2:
            return
        own = times if lowered is None else np.asarray(lowered, np.float64)
        reach = n - np.searchsorted(known, np.where(seen, own, np.inf) / (1 + self.margin)) - 1  # of the others
        top = top_of(n)
        self.detector.update(step, seen & (reach < top), top / n, seen)
        fresh = self.detector.since == step
        with np.errstate(divide="ignore", invalid="ignore"):
            now = np.where(seen, np.log(times / known[(n - 1) // 2]), 0.0)
        self._log = np.where(fresh, 0.0, self._log) + np.where(np.isfinite(now), now, 0.0)
        self._steps = np.where(fresh, 0.0, self._steps) + seen


class Growth:
    """One series against its own past: the newest value, divided by 1 + margin, among the top quarter of all since the
    start. Under exchangeability the rank of the newest among all is uniform and independent of earlier ranks (Vovk),
    so the bound above holds. At `KEPT` values it starts over with the newest half, which keeps memory constant.
    """

    KEPT, FIRST = 2048, 20  # values; fewer than FIRST are no past

    def __init__(self, margin: float) -> None:
        self.margin = margin
        self.restart()

    def restart(self, values: list[float] | None = None) -> None:
        self.past = list(values or ())
        self._ordered = sorted(self.past)
        self.detector = Detector(1)

    @property
    def level(self) -> float:
        return float(self.detector.level[0])

    @property
    def since(self) -> int:
        return int(self.detector.since[0])

    def update(self, step: int, value: float) -> None:
        self.past.append(value)
        insort(self._ordered, value)
        n = len(self.past)
        if n > self.FIRST:
            top = top_of(n)
            above = n - bisect_left(self._ordered, value / (1 + self.margin)) - 1
            self.detector.update(step, np.array([above < top]), top / n, np.array([True]))
        if n >= self.KEPT:
            self.past = self.past[n // 2 :]
            self._ordered = sorted(self.past)


def log_multinomial(counts: ArrayLike, shares: ArrayLike) -> float:
    """log e-value against draws that come independently with these shares: the likelihood of the counts under shares
    that are uniform on the simplex, over that under the given ones. At any number of draws P(e ≥ 1 / alpha) ≤ alpha
    (Ville). Infinite where something came that should never."""
    counts, shares = np.asarray(counts, np.float64), np.asarray(shares, np.float64)
    if (counts[shares <= 0] > 0).any():
        return math.inf
    k, kept = len(counts), shares > 0
    mixed = math.lgamma(k) - math.lgamma(k + counts.sum()) + sum(math.lgamma(1 + c) for c in counts)
    return mixed - float(np.sum(counts[kept] * np.log(shares[kept])))
