"""Intervals of statistics of prompts: a delete-one-prompt jackknife with Student's t, the same for all of them.

Scores, means, agreement and strengths of models are all functions of sums over prompts, so leaving a prompt out costs
one subtraction. Two things keep the nominal level where the usual percentile bootstrap falls short of it (12 prompts
of a category: 88 to 93 % instead of 95 %; docs/evaluation.md § Statistics): t instead of the normal quantile, and
half a pseudo-prompt at each end of what the statistic can be, so that the interval does not collapse where all
annotators said the same (Agresti & Coull 1998; for paired comparisons Bonett & Price 2012).

Legend: m prompts, k features summed over prompts, q statistics, p pseudo-prompts.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import stdtrit

LEVEL = 0.95
WEIGHT = 0.5  # of a pseudo-prompt, in prompts of mean size; what coverage was measured with
FEWEST = 6
"""Prompts below which no outcome is significant: with 5, even a unanimous one has p = 2 / 2^5 > 0.05."""

_CHUNK = 4096  # prompts whose statistics are held in memory at a time

Floats = NDArray[np.float64]
Statistic = Callable[[Floats], Floats]
"""Sums [..., k] → statistics [..., q], for any leading axes."""


@dataclass(frozen=True)
class Interval:
    """Values [q] with their intervals, of the `prompts` they rest on."""

    value: Floats
    low: Floats
    high: Floats
    prompts: int


def by_cluster(features: ArrayLike, clusters: Sequence[Hashable]) -> Floats:
    """Features of rows [n, k] summed over each cluster [m, k], in order of first appearance."""
    x = np.asarray(features, float)
    if len(x) != len(clusters) or not len(x):
        raise ValueError(f"{len(x)} rows but {len(clusters)} clusters: give one or more of each, as many")
    numbers: dict[Hashable, int] = {}
    ids = np.array([numbers.setdefault(c, len(numbers)) for c in clusters])
    out = np.zeros((len(numbers), x.shape[1]))
    np.add.at(out, ids, x)
    return out


def interval(
    sums: ArrayLike,
    statistic: Statistic,
    pseudo: ArrayLike | None = None,
    *,
    fisher: bool = False,
    level: float = LEVEL,
) -> Interval:
    """Statistics of sums [m, k] over prompts, with intervals.

    The value is that of the data alone; pseudo-prompts [p, k] widen and centre the interval only. With `fisher` the
    interval is symmetric on Fisher's scale (artanh), for statistics that end at 1 as correlations do.

    Raises:
        ValueError: fewer than 2 prompts, real and pseudo together.
    """
    x = np.asarray(sums, float)
    m = len(x)
    value = statistic(x.sum(0))
    rows = x if pseudo is None else np.concatenate([x, np.asarray(pseudo, float)])
    n = len(rows)
    if n < 2:
        raise ValueError(f"{m} prompt: an interval over prompts needs two; report the value as a single case")
    total = rows.sum(0)
    centre = statistic(total)  # [q]
    left = np.concatenate([statistic(total - rows[i : i + _CHUNK]) for i in range(0, n, _CHUNK)])  # [n, q]
    error = np.sqrt((n - 1) / n * ((left - left.mean(0)) ** 2).sum(0))
    half = stdtrit(n - 1, 0.5 + level / 2) * error
    if fisher:
        # Carried over by the slope at the centre: without some prompt there may be a 1, whose artanh is infinite.
        half = half / (1 - centre**2)
        low, high = np.tanh(np.arctanh(centre) - half), np.tanh(np.arctanh(centre) + half)
    else:
        low, high = centre - half, centre + half
    # With few prompts the pseudo-prompts pull the interval inwards; it always holds the value it is of.
    return Interval(value, np.fmin(low, value), np.fmax(high, value), m)


def mean_interval(
    values: ArrayLike,
    clusters: Sequence[Hashable],
    ends: tuple[float, float] | None = None,
    *,
    weight: float = WEIGHT,
    bounds: tuple[float, float] | None = None,
    level: float = LEVEL,
) -> tuple[float, float, float]:
    """Mean of values [n], low, high: over prompts, each as heavy as it has values.

    Args:
        ends: values of the two pseudo-prompts.
        weight: of each of them, in prompts.
        bounds: what a mean can be; the interval is cut there.
    """
    x = np.asarray(values, float)
    if not np.isfinite(x).all():
        raise ValueError(f"value {int(np.flatnonzero(~np.isfinite(x))[0])} is not finite: a missing answer is an error")
    sums = by_cluster(np.stack([x, np.ones_like(x)], 1), clusters)
    size = weight * len(x) / len(sums)
    pseudo = None if ends is None else [[size * e, size] for e in ends]
    found = interval(sums, lambda s: s[..., :1] / s[..., 1:], pseudo, level=level)
    low, high = (float(v[0]) for v in (found.low, found.high))
    if bounds is not None:
        low, high = max(low, bounds[0]), min(high, bounds[1])
    return float(found.value[0]), low, high
