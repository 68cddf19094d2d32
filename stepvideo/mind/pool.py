"""Which node of the buffer takes a failed one's place (report §6.5): its score is at least what the pool asks.

Of the nodes that are good enough a pool gets the least good, and pools that ask more are served first. A node that is
good enough for one pool is so for all that ask less, so this order serves as many needs as any other, the demanding
ones before all, and what it leaves in the buffer is good for most of what may come: giving the best instead would spend
nodes on pools that did not ask for them (`tests/mind/test_pool.py` tries every other choice).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Pool:
    """A partition and its tier.

    Attributes:
        least_score: its nodes stay in order for 30 days with at least this probability.
    """

    name: str
    least_score: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.least_score < 1:
            raise ValueError(f"least_score of pool {self.name} is {self.least_score:g}; give 0 or more, less than 1")


@dataclass(frozen=True)
class Matched:
    """placed: (pool, node) pairs, in order; unmet: pools that no node of the buffer is good enough for, one a need."""

    placed: tuple[tuple[str, str], ...]
    unmet: tuple[str, ...]


def match(needs: Sequence[Pool], buffer: Mapping[str, float]) -> Matched:
    """Nodes for needs; a pool that lacks three nodes is given three times.

    Args:
        buffer: score of each node that waits.
    """
    left = dict(buffer)
    placed, unmet = [], []
    for pool in sorted(needs, key=lambda p: (-p.least_score, p.name)):
        enough = [name for name, value in left.items() if value >= pool.least_score]
        if not enough:
            unmet.append(pool.name)
            continue
        node = min(enough, key=lambda name: (left[name], name))
        del left[node]
        placed.append((pool.name, node))
    return Matched(tuple(placed), tuple(unmet))
