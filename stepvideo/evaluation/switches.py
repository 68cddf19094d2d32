"""Loss against data-subset switches (report §8, Figure 10): how far it drops where training goes on other data."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from stepvideo.evaluation.collect import Curve
from stepvideo.evaluation.stats import LEVEL, Estimate

WINDOW = 100  # steps on each side of a switch
LEAST = 8  # steps a side, below which nothing is said


@dataclass(frozen=True)
class Switch:
    """Training went from the data of stage `before` to those of `after`.

    `drop` is how much the loss falls at the switch itself: the difference there of a line through the last steps before
    it and one through the first steps after it, so that ongoing learning does not count. The same weights see both data
    sets there, but for the average that a stage hands over instead of its last weights.
    """

    before: str
    after: str
    step: float  # of the joined curve
    drop: Estimate

    @property
    def verdict(self) -> str:
        if self.drop.low > 0:
            return "drop"
        return "rise" if self.drop.high < 0 else "no change shown"

    def as_dict(self) -> dict[str, object]:
        names = {"before": self.before, "after": self.after, "step": self.step}
        return {**names, **self.drop.as_dict(), "verdict": self.verdict}


def families(curves: Sequence[Curve]) -> dict[str, list[Curve]]:
    """Curves that belong together, by the name that NAME.s1, NAME.s2, … or NAME.1, NAME.2, … share."""
    found: dict[str, list[Curve]] = {}
    for c in curves:
        found.setdefault(re.sub(r"\.s?\d+$", "", c.stage), []).append(c)
    return found


def chained(members: Sequence[Curve]) -> bool:
    """Whether these continue each other: NAME.s1, NAME.s2, … ."""
    return all(re.search(r"\.s\d+$", c.stage) for c in members)


def switches(members: Sequence[Curve], window: int = WINDOW) -> list[Switch]:
    """The switches between stages that continue each other, in order; those with too few steps beside them left out."""
    found, start = [], 0.0
    for before, after in zip(members, members[1:]):
        start += before.rows[-1][0] + 1
        a, b = ([p for p in c.points("loss") if np.isfinite(p[1])] for c in (before, after))
        a, b = a[-window:], b[:window]
        if min(len(a), len(b)) >= LEAST:
            names = [c.stage.rpartition(".")[2] for c in (before, after)]
            found.append(Switch(names[0], names[1], start, drop(a, b, before.rows[-1][0] + 1)))
    return found


def drop(before: Sequence[tuple[float, float]], after: Sequence[tuple[float, float]], end: float) -> Estimate:
    """How much lower a line through `after` is at its step 0 than one through `before` at its step `end`.

    Least squares on each side; the interval takes the steps' noise as independent (each has a batch of its own) and
    Student's quantile by its expansion in 1/df.
    """
    values, variances, count = [], [], 0
    for points, at in ((before, end), (after, 0.0)):
        x, y = np.array(points).T
        design = np.stack([np.ones_like(x), x - at], 1)
        (value, slope), *_ = np.linalg.lstsq(design, y, rcond=None)
        noise = np.square(y - design @ np.array([value, slope])).sum() / (len(x) - 2)
        values.append(value)
        variances.append(noise * np.linalg.inv(design.T @ design)[0, 0])
        count += len(x)
    z, df = NormalDist().inv_cdf(0.5 + LEVEL / 2), count - 4
    t = z + (z**3 + z) / (4 * df) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * df * df)
    value, half = float(values[0] - values[1]), float(t * np.sqrt(sum(variances)))
    return Estimate(value, value - half, value + half, count)
