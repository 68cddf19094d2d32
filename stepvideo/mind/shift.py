"""Nodes between the inference and the training partition, as the pipes' rates say (report §6.1): how many, and which.

Pure functions. Who waits for whom is the pipes' to say (`pipes/balance.py`); here several stages become one answer,
which must come several times in a row, and idle nodes go first.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from stepvideo.mind.nodes import Kind, Record, State
from stepvideo.pipes.balance import Limits, Load, Pressure, wanted_move

MOVES = "moves to "  # begins the detail of a record's last state while its node is on the way


@dataclass(frozen=True)
class Shift:
    """`shift` in `mind.json`.

    Attributes:
        inference, training: partitions.
        least_inference, least_training: nodes that stay there whatever waits; of training as many as its largest stage
            asks for, or that stage would never begin.
        unit: nodes move by so many, at most `most` at once.
        min_gain: share by which the rate must grow for a move to be worth it.
        patience: so many equal answers in a row before one is followed.
        act: move nodes; otherwise it is only said.
    """

    inference: str = "inference"
    training: str = "training"
    least_inference: int = 1
    least_training: int = 1
    unit: int = 1
    most: int = 1
    min_gain: float = 0.05
    patience: int = 3
    act: bool = False

    def __post_init__(self) -> None:
        for name in ("least_inference", "least_training", "unit", "most", "patience"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; give 1 or more")
        if self.inference == self.training:
            raise ValueError(f"inference and training are both {self.training!r}; give two partitions")

    @property
    def limits(self) -> Limits:
        least = self.least_inference, self.least_training
        return Limits(*least, self.unit, self.min_gain, self.patience, self.most)


@dataclass(frozen=True)
class Sides:
    """Names of the nodes in service on either side, idle ones first."""

    inference: tuple[str, ...] = field(default=())
    training: tuple[str, ...] = field(default=())

    @classmethod
    def of(cls, records: Iterable[Record], busy: Iterable[str], shift: Shift) -> Sides:
        """busy: nodes with jobs. Those on the way count where they will be."""
        last, serving = set(busy), [r for r in records if r.state == State.IN_SERVICE]

        def of(partition: str) -> tuple[str, ...]:
            there = [r.name for r in serving if partition in r.home.split(",")]
            return tuple(sorted(there, key=lambda name: (name in last, name)))

        return cls(of(shift.inference), of(shift.training))


def decide(pressure: Pressure, loads: Sequence[Load], sides: Sides, shift: Shift) -> tuple[Pressure, int]:
    """Nodes to move from training to inference (negative: the other way), and what to remember.

    Stages that stream at the same time must agree: the smallest of their wishes counts.
    """
    inference, training = len(sides.inference), len(sides.training)
    if not (loads and inference and training):
        return Pressure(), 0
    moves = [wanted_move(load, inference, training, shift.limits) for load in loads]
    move = min(moves, key=abs) if min(moves) > 0 or max(moves) < 0 else 0
    if not move:
        return Pressure(), 0
    sign = 1 if move > 0 else -1
    pressure = replace(pressure, times=pressure.times + 1) if sign == pressure.sign else Pressure(sign, 1)
    return (Pressure(), move) if pressure.times >= shift.patience else (pressure, 0)


def chosen(move: int, sides: Sides) -> tuple[str, ...]:
    """Nodes that go."""
    return (sides.training if move > 0 else sides.inference)[: abs(move)]


def on_the_way(record: Record) -> bool:
    """Whether a node has left its partition, and waits for its jobs to end before it enters the other."""
    states = [e for e in record.history if e.kind == Kind.STATE]
    return record.state == State.IN_SERVICE and bool(states) and states[-1].detail == MOVES + record.home
