"""Statistics of an evaluation: every rate and every difference comes with an interval.

Samples of one prompt are not independent, so what is resampled or flipped is a prompt (a cluster), not a sample. All
functions are deterministic: the random ones take a seed.

Legend: n samples, m clusters, B resamples.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import asdict, dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike, NDArray

from stepvideo.evaluation.jackknife import FEWEST, mean_interval

LEVEL = 0.95
RESAMPLES = 2000
EXACT_CLUSTERS = 14  # 2^14 sign patterns are enumerated rather than drawn
_CHUNK = 256  # resamples held in memory at a time


@dataclass(frozen=True)
class Estimate:
    """A value with its confidence interval, and the number of samples behind it."""

    value: float
    low: float
    high: float
    n: int

    def as_dict(self) -> dict[str, float]:
        return asdict(self)

    def named(self, name: str) -> dict[str, float]:
        """As metrics of a stage, which are plain numbers: NAME, NAME_low, NAME_high."""
        return {name: self.value, f"{name}_low": self.low, f"{name}_high": self.high}


def wilson(successes: int, n: int, level: float = LEVEL) -> Estimate:
    """Score interval of a proportion (Wilson 1927), which stays inside [0, 1] and does not collapse at 0 or n.

    Raises:
        ValueError: no trial at all, or successes outside 0…n. Nothing measured is never a zero.
    """
    if n < 1 or not 0 <= successes <= n:
        raise ValueError(f"successes={successes}, n={n}: give 1 trial or more, and 0 to n successes")
    z = NormalDist().inv_cdf(0.5 + level / 2)
    p = successes / n
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    # At the ends the bound is the end itself; rounding would leave it 1e-17 off.
    low = 0.0 if successes == 0 else max(0.0, centre - half)
    high = 1.0 if successes == n else min(1.0, centre + half)
    return Estimate(p, low, high, n)


def cluster_bootstrap(
    values: ArrayLike,
    clusters: Sequence[Hashable] | None = None,
    *,
    resamples: int = RESAMPLES,
    level: float = LEVEL,
    seed: int = 0,
) -> Estimate:
    """Mean of `values` [n] with a percentile interval over resampled clusters; `clusters` None: every value its own.

    Raises:
        ValueError: no value, a value that is not finite, or lengths that differ.
    """
    x, ids = _clustered(values, clusters)
    m = int(ids.max()) + 1
    sums, counts = np.bincount(ids, x, m), np.bincount(ids, minlength=m)
    rng = np.random.default_rng(seed)
    means = np.empty(resamples)
    for start in range(0, resamples, _CHUNK):
        pick = rng.integers(0, m, (min(_CHUNK, resamples - start), m))
        means[start : start + len(pick)] = sums[pick].sum(1) / counts[pick].sum(1)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return Estimate(float(x.mean()), float(low), float(high), len(x))


def paired_bootstrap(
    a: ArrayLike,
    b: ArrayLike,
    clusters: Sequence[Hashable] | None = None,
    *,
    resamples: int = RESAMPLES,
    level: float = LEVEL,
    seed: int = 0,
) -> Estimate:
    """Mean of a − b over the same prompts and noise, with the interval of `cluster_bootstrap`."""
    x, y = np.asarray(a, float), np.asarray(b, float)
    if x.shape != y.shape:
        raise ValueError(f"a has {x.shape} values, b has {y.shape}: pairs need equal lengths")
    return cluster_bootstrap(x - y, clusters, resamples=resamples, level=level, seed=seed)


def mcnemar_exact(only_a: int, only_b: int) -> float:
    """Two-sided exact p-value that a and b are right equally often, given how often only one of them is right.

    Twice the smaller tail of Binomial(only_a + only_b, 1/2), at most 1; 1 where they never differ.
    """
    if only_a < 0 or only_b < 0:
        raise ValueError(f"only_a={only_a}, only_b={only_b}: counts cannot be negative")
    n, k = only_a + only_b, min(only_a, only_b)
    tail = sum(math.comb(n, i) for i in range(k + 1))
    return min(1.0, 2 * tail / 2**n)


def sign_flip(
    differences: ArrayLike,
    clusters: Sequence[Hashable] | None = None,
    *,
    resamples: int = 10_000,
    seed: int = 0,
) -> float:
    """Two-sided p-value that the mean difference is zero, by flipping the sign of whole clusters.

    All patterns are enumerated up to 14 clusters that are not zero; beyond, `resamples` are drawn and the observed one
    is counted in.
    """
    x, ids = _clustered(differences, clusters)
    sums = np.bincount(ids, x)
    sums = sums[sums != 0]
    observed = abs(sums.sum())
    if not len(sums):
        return 1.0
    # Sums of the same magnitudes in another order differ by rounding only; count them as equal.
    limit = observed - 1e-9 * max(1.0, float(np.abs(sums).sum()))
    if len(sums) <= EXACT_CLUSTERS:
        bits = np.arange(2 ** len(sums))[:, None] >> np.arange(len(sums)) & 1
        return float((np.abs((1 - 2 * bits) @ sums) >= limit).mean())
    rng = np.random.default_rng(seed)
    hits = 0
    for start in range(0, resamples, _CHUNK):
        flips = 1 - 2 * rng.integers(0, 2, (min(_CHUNK, resamples - start), len(sums)))
        hits += int((np.abs(flips @ sums) >= limit).sum())
    return (hits + 1) / (resamples + 1)


@dataclass(frozen=True)
class Preference:
    """How often a beats b: score = (wins + ties / 2) / n with its interval, and the sign-flip p-value of 1/2."""

    score: Estimate
    wins: int
    ties: int
    losses: int
    p_value: float

    @property
    def verdict(self) -> str:
        """preferred | not preferred | no difference shown, by whether the interval excludes 1/2."""
        if self.score.low > 0.5:
            return "preferred"
        return "not preferred" if self.score.high < 0.5 else "no difference shown"

    def as_dict(self) -> dict[str, object]:
        return {**asdict(self), "verdict": self.verdict}


def score_estimate(
    outcomes: ArrayLike, clusters: Sequence[Hashable] | None = None, *, level: float = LEVEL
) -> Estimate:
    """(wins + ties / 2) / n of outcomes +1, 0 and −1 with the interval of `jackknife` over clusters.

    Half a prompt won and half a prompt lost are added for the interval.

    Raises:
        ValueError: no outcome, or one that is none of the three.
    """
    x, ids = _clustered(outcomes, clusters)
    if not np.isin(x, (-1, 0, 1)).all():
        raise ValueError(f"outcomes must be +1, 0 or -1, not {sorted(set(x.tolist()) - {-1.0, 0.0, 1.0})[:3]}")
    return Estimate(*mean_interval((1 + x) / 2, ids.tolist(), (0, 1), bounds=(0, 1), level=level), len(x))


def preference_score(
    outcomes: ArrayLike, clusters: Sequence[Hashable] | None = None, *, level: float = LEVEL, seed: int = 0
) -> Preference:
    """From one outcome a comparison: +1 a wins, 0 tie, −1 b wins (report §9.2; `clusters` are the prompts).

    Raises:
        ValueError: as `score_estimate`.
    """
    score = score_estimate(outcomes, clusters, level=level)
    wins, ties, losses = (int((np.asarray(outcomes) == v).sum()) for v in (1, 0, -1))
    return Preference(score, wins, ties, losses, sign_flip(outcomes, clusters, seed=seed))


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values of several tests of one question, adjusted so that one false finding in all has at most their level.

    Holm (1979): the smallest times their number, the next times one less, and none below the one before.
    """
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    adjusted, highest = [0.0] * len(p_values), 0.0
    for rank, i in enumerate(order):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[i]))
        adjusted[i] = highest
    return adjusted


def verdict(estimate: Estimate | None, claim: float, prompts: int) -> str:
    """Whether a value above `claim` is supported, contradicted, inconclusive or untestable.

    Supported: the whole interval is above; contradicted: it is below. Untestable: nothing was measured, or with so few
    prompts that no outcome could be significant.
    """
    if estimate is None or prompts < FEWEST:
        return "untestable"
    if estimate.low > claim:
        return "supported"
    return "contradicted" if estimate.high < claim else "inconclusive"


def _clustered(values: ArrayLike, clusters: Sequence[Hashable] | None) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Values [n] as floats, and each one's cluster number 0…m−1 in order of first appearance."""
    x = np.asarray(values, float)
    if x.ndim != 1 or not len(x):
        raise ValueError(f"values of shape {x.shape}: give a list of at least one number")
    if not np.isfinite(x).all():
        raise ValueError(f"value {int(np.flatnonzero(~np.isfinite(x))[0])} is not finite: a missing sample is an error")
    if clusters is None:
        return x, np.arange(len(x))
    if len(clusters) != len(x):
        raise ValueError(f"{len(x)} values but {len(clusters)} clusters")
    numbers: dict[Hashable, int] = {}
    return x, np.array([numbers.setdefault(c, len(numbers)) for c in clusters])
