"""What a healthy node reaches, learnt from the fleet: the median of the nodes, and how much they differ."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import median

SIGMA = 1.4826  # of a normal distribution, in median absolute deviations


@dataclass(frozen=True)
class Expectation:
    """Of one test on one kind of machine. count: nodes that it was learnt from."""

    median: float
    deviation: float
    count: int

    def least(self, tolerance: float, sigmas: float) -> float:
        """Below it a node fails: whichever of the two is the more tolerant."""
        return self.median - max(tolerance * self.median, sigmas * self.deviation)


@dataclass(frozen=True)
class Verdict:
    """ok None: nothing was learnt yet to hold it against. share: of the median."""

    test: str
    value: float
    ok: bool | None
    share: float = 0.0

    def __str__(self) -> str:
        return f"{self.test} {self.share:.0%}" if self.ok is not None else f"{self.test} not learnt"


def learn(samples: Mapping[str, Mapping[str, float]], least: int = 3) -> dict[str, Expectation]:
    """From {node: {test: value}}, higher being better; tests that fewer than `least` nodes took are left out.

    Median and median absolute deviation: up to half of the nodes may be ill and do not show in them.
    """
    values: dict[str, list[float]] = {}
    for measured in samples.values():
        for test, value in measured.items():
            values.setdefault(test, []).append(value)
    found = {}
    for test, of in values.items():
        if len(of) >= least:
            middle = median(of)
            found[test] = Expectation(middle, SIGMA * median(abs(v - middle) for v in of), len(of))
    return found


def judge(
    measured: Mapping[str, float], expected: Mapping[str, Expectation], tolerance: float = 0.1, sigmas: float = 5.0
) -> list[Verdict]:
    """Each test against its expectation. sigmas: of a fleet's spread, so that a thousand healthy nodes pass."""
    verdicts = []
    for test, value in measured.items():
        known = expected.get(test)
        if known is None:
            verdicts.append(Verdict(test, value, None))
        else:
            verdicts.append(Verdict(test, value, value >= known.least(tolerance, sigmas), value / known.median))
    return verdicts
