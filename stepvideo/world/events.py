"""What happens in a hard scene, and where its object is at any time: the cases that the report names (§10.2, §10.3).

Kinds: `action_sequence` (two movements, one after the other), `bouncing` (off the border of the frame) and `falling`
(from rest, by gravity). The fourth hard case, rare combinations, needs no motion of its own (`suites`).

Lengths in units of u = min(h, w) as in `world.render`; time in frames, 0 at the first; y points down.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stepvideo.world.attributes import DIRECTIONS

SEQUENCE, BOUNCE, FALL = "action_sequence", "bouncing", "falling"
OPPOSITE = {"left": "right", "right": "left", "up": "down", "down": "up"}
DIRECTIONS_OF: dict[str, tuple[tuple[str, ...], ...]] = {  # what each kind can be
    SEQUENCE: tuple(pair for pair in itertools.permutations(DIRECTIONS, 2) if pair[1] != OPPOSITE[pair[0]]),
    BOUNCE: tuple((d, OPPOSITE[d]) for d in DIRECTIONS),
    FALL: (("down",),),
}
KINDS = tuple(DIRECTIONS_OF)


@dataclass(frozen=True, order=True)
class Event:
    """A kind, and the directions of movement in their order."""

    kind: str
    directions: tuple[str, ...]

    def __post_init__(self) -> None:
        if self.directions not in DIRECTIONS_OF.get(self.kind, ()):
            raise ValueError(
                f"event {self.kind!r} {self.directions}: give one of {', '.join(KINDS)} with directions that it has"
            )

    def as_dict(self) -> dict[str, Any]:
        return {"kind": self.kind, "directions": list(self.directions)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Event:
        return cls(data["kind"], tuple(data["directions"]))


def all_events() -> tuple[Event, ...]:
    """8 sequences, 4 bounces, 1 fall."""
    return tuple(Event(kind, directions) for kind, ways in DIRECTIONS_OF.items() for directions in ways)


@dataclass(frozen=True)
class Turn:
    """Constant velocity until a time, another one from then on: a sequence, or an elastic reflection.

    Attributes:
        at: the time of the turn, in frames; not whole.
        corner: (x, y) of the box centre then.
        before, after: velocities (x, y), a frame.
    """

    at: float
    corner: tuple[float, float]
    before: tuple[float, float]
    after: tuple[float, float]

    def position(self, time_t: NDArray[np.float64]) -> NDArray[np.float64]:
        """[t, 2], exact at any time."""
        since = (time_t - self.at)[:, None]
        return np.array(self.corner) + np.where(since < 0, since * self.before, since * self.after)


@dataclass(frozen=True)
class Fall:
    """y = y0 + g t² / 2 from rest at t = 0.

    Attributes:
        start: (x, y) of the box centre at rest.
        g: acceleration, a frame².
    """

    start: tuple[float, float]
    g: float

    def position(self, time_t: NDArray[np.float64]) -> NDArray[np.float64]:
        """[t, 2], exact at any time."""
        return np.array(self.start) + np.stack([np.zeros_like(time_t), self.g * time_t**2 / 2], 1)


Motion = Turn | Fall
