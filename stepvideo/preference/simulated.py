"""Simulated annotators, for tests and for the small world, whose oracle says how good a video is.

They are made to err as people do, each in a stated way; what they say is marked `simulated` wherever it is written and
is no result about people.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from stepvideo.data.draw import rng
from stepvideo.evaluation.votes import SCALES, Vote

SIMULATED = "true"


@dataclass(frozen=True)
class Annotator:
    """How one annotator answers. The defaults are an honest one's.

    Attributes:
        noise: standard deviation of what they see about the true quality, which lies in [0, 1].
        tie: a seen difference below this is a tie.
        flip: share of answers in which they press the wrong button.
        left: share of answers in which they take the left side unseen.
        careless: share of answers in which they press any button: left, right or tie.
        constant: "left", "right" or "tie": always that; "" they look.
        dwell_s: median of the seconds that an answer takes; it varies by a factor of about 1.5.
    """

    name: str
    noise: float = 0.05
    tie: float = 0.05
    flip: float = 0.02
    left: float = 0.0
    careless: float = 0.0
    constant: str = ""
    dwell_s: float = 8.0

    def __post_init__(self) -> None:
        for name in ("noise", "tie", "dwell_s"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}={getattr(self, name)}: give 0 or more")
        for name in ("flip", "left", "careless"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name}={getattr(self, name)}: give a share from 0 to 1")
        if self.constant not in ("", "left", "right", "tie"):
            raise ValueError(f"constant={self.constant!r}: give left, right, tie, or nothing")

    def choose(self, left: float, right: float, *key: int | str) -> str:
        """left, right or tie, from the qualities of the two sides; the same key, the same answer."""
        draw = rng(*key, self.name)
        careless, biased, flip = draw.random(3)
        seen = left - right + math.sqrt(2) * self.noise * float(draw.standard_normal())
        any_button = ("left", "right", "tie")[int(draw.integers(3))]
        if self.constant:
            return self.constant
        if careless < self.careless:
            return any_button
        if biased < self.left:
            return "left"
        if abs(seen) < self.tie:
            return "tie"
        return "left" if (seen > 0) != (flip < self.flip) else "right"

    def rate(self, quality: float, *key: int | str) -> dict[str, int]:
        """Four scores from 1 to 5 that follow the quality of one video, each with its own noise."""
        draw = rng(*key, self.name)
        careless = draw.random() < self.careless
        seen = quality + self.noise * draw.standard_normal(len(SCALES))
        said = draw.integers(1, 6, len(SCALES)) if careless else [round(1 + 4 * min(1.0, max(0.0, s))) for s in seen]
        return dict(zip(SCALES, [3] * len(SCALES) if self.constant else map(int, said), strict=True))

    def seconds(self, *key: int | str) -> float:
        return round(self.dwell_s * math.exp(0.4 * float(rng(*key, self.name, "dwell").standard_normal())), 3)


@dataclass(frozen=True)
class Pair:
    """A pair and its truth, for `answers`.

    Attributes:
        a, b: qualities in [0, 1].
        row: the vote's other columns: item, prompt_id, role, expected, repeat_of …
    """

    a: float
    b: float
    row: Mapping[str, object] = field(default_factory=dict)


def answers(pairs: Iterable[Pair], people: Sequence[Annotator], study: str, seed: int = 0) -> Iterator[Vote]:
    """The votes of all annotators on all pairs, one annotator after the other; sides are drawn for each vote."""
    pairs = list(pairs)
    for who in people:
        for n, pair in enumerate(pairs):
            swapped = bool(rng(seed, "sides", n, who.name).random() < 0.5)
            left, right = (pair.b, pair.a) if swapped else (pair.a, pair.b)
            said = who.choose(left, right, seed, "vote", n)
            outcome = {"left": 1, "right": -1, "tie": 0}[said] * (-1 if swapped else 1)
            row: dict[str, object] = {"study": study, "kind": "compare", "annotator": who.name, **pair.row}
            row |= {"outcome": outcome, "shown_left": "b" if swapped else "a", "simulated": SIMULATED}
            yield Vote(**row, dwell_s=who.seconds(seed, n), time=_time(n))  # type: ignore[arg-type]


def crowd(n: int, like: Annotator | None = None) -> list[Annotator]:
    """n annotators who answer alike, named simulated-1 and so on."""
    like = like or Annotator("simulated")
    return [replace(like, name=f"{like.name}-{i + 1}") for i in range(n)]


def _time(n: int) -> str:
    return f"2000-01-{1 + n // 1440:02d}T{n // 60 % 24:02d}:{n % 60:02d}:00+00:00"
