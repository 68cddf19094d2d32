"""Who waits for whom, training or its producers; and how many producers that asks for (report §6.1)."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from stepvideo.data.feed import Wish
from stepvideo.pipes.balance import Load, wanted_move
from stepvideo.pipes.metrics import verdict

EVERY_S = 5.0  # over which rates are taken
WAITS, ROOM = 0.05, 0.25  # training may wait for this share of time; fewer producers must leave this share of theirs


@dataclass(frozen=True)
class Told:
    """Of the time since the last look. packs_per_s: that reached the ranks; training_waits, producers_idle: shares of
    their time; ranks, producers: how many live; says: who waits for whom; move: devices that the two sides should
    exchange (`pipes.balance`): to the producers, or, negative, to training.
    """

    packs_per_s: float
    training_waits: float
    producers_idle: float
    ranks: int
    producers: int
    says: str
    move: int


class Rates:
    """What ranks and producers say of themselves, as rates."""

    def __init__(self, every_s: float = EVERY_S) -> None:
        self._every_s, self._last = every_s, time.monotonic()
        self._before: dict[str, tuple[float, ...]] = {}

    def update(self, wishes: Iterable[Wish], producers: Mapping[str, Mapping[str, Any]]) -> Told | None:
        """None while it is too early, or one side is not there."""
        if time.monotonic() - self._last < self._every_s:
            return None
        self._last = time.monotonic()
        ranks = {w.receiver: (w.waited_s, w.elapsed_s, float(w.received)) for w in wishes}
        makers = {f"producer {n}": (said["idle_s"], said["elapsed_s"]) for n, said in producers.items()}
        (waited, trained, came), (idle, made) = self._since(ranks, 3), self._since(makers, 2)
        self._before = ranks | makers
        if not trained or not made:
            return None
        waits, idles = min(waited / trained, 1.0), min(idle / made, 1.0)
        rate = came / (trained / len(ranks))
        move = wanted_move(Load(rate, idles, waits), len(makers), len(ranks))
        shares = round(rate, 3), round(waits, 4), round(idles, 4)
        return Told(*shares, len(ranks), len(makers), verdict(idles, waits), move)

    def _since(self, now: Mapping[str, tuple[float, ...]], width: int) -> list[float]:
        """Sums of what was added since the last look; a second life counts from its start."""
        sums = [0.0] * width
        for name, said in now.items():
            before = self._before.get(name, (0.0,) * width)
            begun = before if said[1] >= before[1] else (0.0,) * width
            sums = [total + a - b for total, a, b in zip(sums, said, begun)]
        return sums


def producers_wanted(told: Told, now: int, least: int, most: int) -> int:
    """One more while training waits and no producer has time to spare, one fewer while the others could do its work."""
    if told.training_waits > WAITS and told.producers_idle < ROOM:
        return min(now + 1, most)
    if told.training_waits <= WAITS and now * (1 - told.producers_idle) < (now - 1) * (1 - ROOM):
        return max(now - 1, least)
    return max(least, min(now, most))
