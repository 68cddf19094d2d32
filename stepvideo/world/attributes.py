"""The attribute grid of the world, and the combinations that nothing may ever be trained on.

6 colours × 3 shapes × 4 directions × 2 sizes × 2 counts = 288 combinations; 28 of them are held out. They are chosen by
a greedy rule that spreads them evenly over values and over pairs of values, so that a held-out combination differs from
the seen ones by its combination only. The choice depends on nothing but this file; a test pins it.
"""

from __future__ import annotations

import hashlib
import itertools
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any

COLOURS = ("red", "yellow", "green", "cyan", "blue", "purple")
SHAPES = ("circle", "square", "triangle")
VECTOR = {"left": (-1.0, 0.0), "right": (1.0, 0.0), "up": (0.0, -1.0), "down": (0.0, 1.0)}  # x, y; y points down
DIRECTIONS = tuple(VECTOR)
SIZES = ("small", "large")
COUNTS = (1, 2)
GRID: dict[str, tuple[Any, ...]] = {
    "colour": COLOURS,
    "shape": SHAPES,
    "direction": DIRECTIONS,
    "size": SIZES,
    "count": COUNTS,
}
NAMES = tuple(GRID)
N_HELD_OUT = 28
N_RARE = 26


@dataclass(frozen=True, order=True)
class Attrs:
    """What is in a clip. `direction` is None for a still image."""

    colour: str
    shape: str
    direction: str | None
    size: str
    count: int

    def __post_init__(self) -> None:
        for name, values in GRID.items():
            value = getattr(self, name)
            if value not in values and not (name == "direction" and value is None):
                raise ValueError(f"{name} is {value!r}; give one of {', '.join(map(str, values))}")

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Attrs:
        return cls(**{k: data[k] for k in NAMES})

    def still(self) -> Attrs:
        """The same object at rest in an image."""
        return Attrs(self.colour, self.shape, None, self.size, self.count)

    def __str__(self) -> str:
        return "-".join(str(getattr(self, n)) for n in NAMES if getattr(self, n) is not None)


@cache
def all_combinations() -> tuple[Attrs, ...]:
    """The 288 combinations in grid order."""
    return tuple(Attrs(*values) for values in itertools.product(*GRID.values()))


def _parts(a: Attrs, order: int) -> Iterable[tuple[tuple[str, Any], ...]]:
    return itertools.combinations([(n, getattr(a, n)) for n in NAMES], order)


def _spread(combos: tuple[Attrs, ...], n: int, name: str) -> tuple[Attrs, ...]:
    """`n` of `combos`, sorted.

    Greedy: each step takes the combination whose values, pairs and triples are least over-used relative to `combos`;
    ties go to the smallest sha256 of `name` and the combination.
    """
    total = {k: Counter(p for a in combos for p in _parts(a, k)) for k in (1, 2, 3)}
    used: dict[int, Counter] = {k: Counter() for k in (1, 2, 3)}
    left = sorted(combos, key=lambda a: hashlib.sha256(f"stepvideo {name} {a}".encode()).hexdigest())
    chosen: list[Attrs] = []

    def cost(a: Attrs) -> float:
        # Convex in the share used, so that spreading wins; higher orders have more parts and smaller shares.
        return sum(((used[k][p] + 1) / total[k][p]) ** 2 for k in (1, 2, 3) for p in _parts(a, k))

    while len(chosen) < n:
        best = min(left, key=cost)
        left.remove(best)
        chosen.append(best)
        for k in (1, 2, 3):
            used[k].update(_parts(best, k))
    return tuple(sorted(chosen))


@cache
def held_out_combinations() -> tuple[Attrs, ...]:
    """The 28 held-out combinations, sorted and spread evenly over the grid."""
    return _spread(all_combinations(), N_HELD_OUT, "held out")


@cache
def _held_out_set() -> frozenset[Attrs]:
    return frozenset(held_out_combinations())


@cache
def train_combinations() -> tuple[Attrs, ...]:
    """The 260 combinations that may be seen."""
    return tuple(a for a in all_combinations() if a not in _held_out_set())


@cache
def rare_combinations() -> tuple[Attrs, ...]:
    """26 of the 260, sorted and spread evenly: those that `RenderConfig.rare_rate` makes training see seldom."""
    return _spread(train_combinations(), N_RARE, "rare")


def is_held_out(attrs: Attrs) -> bool:
    """True for a held-out combination. A still image has no direction, hence is never one."""
    return attrs in _held_out_set()
