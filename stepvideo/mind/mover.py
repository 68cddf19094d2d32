"""Moves nodes between inference and training, or says which it would: `shift.py` decides, the scheduler's hand moves.

A node that goes is first put into the buffer's partition, which takes no jobs; what runs on it goes on. When nothing
does any more, it enters the other side. Records tell which are on the way, so that a mover that dies loses none.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from stepvideo.mind.cluster import Node, NodeManager
from stepvideo.mind.nodes import Record, State
from stepvideo.mind.settings import Folder, Settings
from stepvideo.mind.shift import MOVES, Shift, Sides, chosen, decide, on_the_way
from stepvideo.pipes.balance import Load, Pressure


class Mover:
    """`tick` is one round, after the keeper's."""

    def __init__(
        self,
        folder: Folder,
        manager: NodeManager,
        loads: Callable[[], Sequence[Load]],
        said: Callable[[str], None] = print,
    ) -> None:
        """loads: what pipes say since it was last called, one of each stage that streams."""
        self._folder, self._manager, self._loads, self._said = folder, manager, loads, said
        self._pressure = Pressure()

    def tick(self, now: float) -> tuple[str, ...]:
        """The nodes that should move now, from this round on. now: s since the epoch.

        Raises:
            Unanswered: the scheduler; nothing is lost.
            ConfigError: it has no such partition, or settings are wrong.
        """
        settings = self._folder.settings()
        if not (shift := settings.shift):
            return ()
        views = {n.name: n for n in self._manager.nodes()}
        records = {n: r for n, r in self._folder.book.all().items() if n in views and not views[n].admin}
        moving = [r for r in records.values() if on_the_way(r)]
        for record in moving:
            self._forward(record, views[record.name], settings)
        if not (loads := self._loads()) or moving:
            return ()
        sides = Sides.of(records.values(), [n for n, view in views.items() if view.busy], shift)
        self._pressure, move = decide(self._pressure, loads, sides, shift)
        if not move:
            return ()
        nodes = chosen(move, sides)
        to = self._home(shift.inference if move > 0 else shift.training, records)
        self._say(nodes, to, loads, shift)
        if shift.act:
            for name in nodes:
                change = partial(_sent, to=to, now=now)
                self._forward(self._folder.book.update(name, change), views[name], settings)
        return nodes

    def _home(self, partition: str, records: dict[str, Record]) -> str:
        """All partitions that the nodes of a side are in: a node of training may be in others, too."""
        return next(r.home for r in records.values() if partition in r.home.split(",") and r.state == State.IN_SERVICE)

    def _say(self, nodes: Sequence[str], to: str, loads: Sequence[Load], shift: Shift) -> None:
        why = "; ".join(f"training waits {x.starved:.0%}, producers {x.blocked:.0%} of the time" for x in loads)
        does = "goes" if shift.act else "should go (`shift.act` is off)"
        self._said(f"{', '.join(nodes)} {does} to {to}: {why}")

    def _forward(self, record: Record, view: Node, settings: Settings) -> None:
        """One step of a node that is on the way; what was done already is not done again."""
        place, home = ",".join(view.partitions), set(record.home.split(","))
        if set(view.partitions) == home:
            self._folder.book.update(record.name, _arrived)
        elif place != settings.buffer:
            self._manager.move(record.name, settings.buffer)
        elif view.usable and not view.busy:
            self._manager.move(record.name, record.home)


def _sent(old: Record | None, to: str, now: float) -> Record:
    assert old
    return old.into(old.state, now, MOVES + to, home=to) if old.state == State.IN_SERVICE else old


def _arrived(old: Record | None) -> Record:
    assert old
    return old.into(old.state, old.since, "has moved") if on_the_way(old) else old
