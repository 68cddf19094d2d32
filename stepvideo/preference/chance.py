"""How likely an annotator's record would be, did they answer as a rule says that honest ones do."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Sequence
from itertools import groupby


def at_most(k: int, n: int, p: float) -> float:
    """P(X ≤ k) of Binomial(n, p), 0 < p < 1; 1 where there is no trial."""
    return min(1.0, math.fsum(_mass(i, n, p) for i in range(k + 1)))


def at_least(k: int, n: int, p: float) -> float:
    """P(X ≥ k) of Binomial(n, p), 0 < p < 1; 1 where there is no trial."""
    return min(1.0, math.fsum(_mass(i, n, p) for i in range(k, n + 1)))


def run_at_least(length: int, n: int, p: float) -> float:
    """P(some run is `length` long or longer) of n draws of two sides, one of them with probability p.

    Exact: the two sides' runs below `length` are the states of a Markov chain; who leaves them has had such a run.
    """
    if length > n or n < 1:
        return 0.0
    if length <= 1:
        return 1.0
    first, other = [0.0] * (length - 1), [0.0] * (length - 1)  # by the length of the run so far, less 1
    first[0], other[0] = p, 1 - p
    for _ in range(n - 1):
        to_first, to_other = p * math.fsum(other), (1 - p) * math.fsum(first)
        first = [to_first, *(p * v for v in first[:-1])]
        other = [to_other, *((1 - p) * v for v in other[:-1])]
    return min(1.0, max(0.0, 1 - math.fsum(first + other)))


def longest_run(values: Sequence[Hashable]) -> int:
    """Length of the longest row of equal values; 0 of none."""
    return max((sum(1 for _ in same) for _, same in groupby(values)), default=0)


def entropy(values: Sequence[Hashable]) -> float:
    """Bits of the shares of the different values; 0 when all are equal."""
    n = len(values)
    return -math.fsum(c / n * math.log2(c / n) for c in Counter(values).values()) + 0.0


def _mass(k: int, n: int, p: float) -> float:
    logs = math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)
    return math.exp(logs + k * math.log(p) + (n - k) * math.log1p(-p))
