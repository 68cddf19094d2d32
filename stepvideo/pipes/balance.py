"""How many nodes should make data and how many train, as the pipe between them says (report §6.1). Pure functions.

Of a side that never waits the measured rate is what it can do. Of one that waits a share w of the time it can do
rate / (1 − w). With n nodes that can do P items a second on one side and m nodes that can do C on the other, the pipe
carries min(P, C), and as both scale with their nodes the best division gives both the same rate.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from stepvideo.pipes.metrics import WAITS, Flow


@dataclass(frozen=True)
class Load:
    """What a pipe says. rate: items a second that went through; blocked, starved: share of its time that a producer
    waited for training, and training for producers."""

    rate: float
    blocked: float
    starved: float

    def __post_init__(self) -> None:
        for name in ("blocked", "starved"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"pipes: {name}={getattr(self, name)!r} is no share; give 0 to 1")
        if not self.rate >= 0:
            raise ValueError(f"pipes: rate={self.rate!r} is no rate; give items a second")

    @classmethod
    def of(cls, flows: Iterable[Flow]) -> Load:
        """One load of the jobs of a pipe: the producers' wait is that for the slowest of them, as they block on it."""
        flows = [f for f in flows if f.consumers and f.producers]
        rate = min((f.acked_per_s for f in flows), default=0.0)
        blocked = max((f.blocked_share for f in flows), default=0.0)
        starved = min((f.starved_share for f in flows), default=0.0)
        return cls(max(rate, 0.0), min(blocked, 1.0), min(starved, 1.0))


@dataclass(frozen=True)
class Limits:
    """unit: nodes move by so many (a training replica's); min_gain: share by which the rate must grow for a move to be
    worth its restart; patience: so many equal answers in a row before one is followed; max_move: nodes at once."""

    min_inference: int = 1
    min_training: int = 1
    unit: int = 1
    min_gain: float = 0.05
    patience: int = 3
    max_move: int = 1 << 30


@dataclass(frozen=True)
class Pressure:
    """What the balancer remembers: how often in a row it wanted to move nodes the same way."""

    sign: int = 0
    times: int = 0


def predicted_rate(load: Load, inference: int, training: int, move: int) -> float:
    """Items a second after `move` nodes went from training to inference (negative: the other way)."""
    producing = _able(load.rate, load.blocked) * (inference + move) / inference
    consuming = _able(load.rate, load.starved) * (training - move) / training
    return min(producing, consuming)


def wanted_move(load: Load, inference: int, training: int, limits: Limits | None = None) -> int:
    """Nodes to move from training to inference now; negative: the other way; 0: leave them.

    Raises:
        ValueError: a side without nodes.
    """
    limits = limits or Limits()
    if inference < 1 or training < 1:
        raise ValueError(f"pipes: {inference} inference and {training} training nodes: each side needs one")
    if load.rate == 0 or (load.blocked >= WAITS and load.starved >= WAITS):
        return 0  # nothing flows, or both wait: more nodes on one side help nobody
    down = max(min(inference - limits.min_inference, limits.max_move), 0) // limits.unit
    up = max(min(training - limits.min_training, limits.max_move), 0) // limits.unit
    moves = [n * limits.unit for n in range(-down, up + 1)]
    rates = {move: predicted_rate(load, inference, training, move) for move in moves}
    best = max(rates, key=lambda move: (rates[move], -abs(move)))
    return best if rates[best] >= rates[0] * (1 + limits.min_gain) else 0


def decide(
    pressure: Pressure, load: Load, inference: int, training: int, limits: Limits | None = None
) -> tuple[Pressure, int]:
    """`wanted_move` with hysteresis: followed when wanted `patience` times in a row. Returns also what to remember."""
    limits = limits or Limits()
    move = wanted_move(load, inference, training, limits)
    sign = (move > 0) - (move < 0)
    if sign == 0:
        return Pressure(), 0
    pressure = replace(pressure, times=pressure.times + 1) if sign == pressure.sign else Pressure(sign, 1)
    return (Pressure(), move) if pressure.times >= limits.patience else (pressure, 0)


def _able(rate: float, waits: float) -> float:
    return rate / max(1 - waits, 1e-3)  # a side that nearly always waits was hardly measured
