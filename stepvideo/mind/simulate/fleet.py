"""The nodes of a simulated cluster: in the job, in the buffer, or away; under StepMind's care or only rebooted."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from stepvideo.mind.breaker import Breaker
from stepvideo.mind.nodes import Record, State, first_seen
from stepvideo.mind.pool import Pool, match
from stepvideo.mind.repair import Action, Checked, Event, Faulted, Repaired, Seen, Standing, Stressed, advance
from stepvideo.mind.score import score
from stepvideo.mind.simulate.assumptions import Month

POOL = Pool("training", 0.9)  # a new node has 0.93, one that failed lately less
Later = Callable[[float, Callable[[float], None]], None]


class Fleet:
    """Who is in the job. `later(time, call)` calls back at a time; `ready(time)` is told of every node that is free."""

    def __init__(self, month: Month, seed: int, cares: bool, later: Later, ready: Callable[[float], None]) -> None:
        self._month, self._cares, self._later, self._ready = month, cares, later, ready
        self._rng = np.random.default_rng([seed, 2])
        states = [State.IN_SERVICE] * month.nodes + [State.BUFFER] * month.spares
        self.records = [first_seen(str(i), POOL.name, 0.0, state) for i, state in enumerate(states)]
        self.defects: dict[int, str] = {}  # node → fault that nobody has mended
        self.breaker = Breaker()
        self.refused = 0

    def serves(self, node: int) -> bool:
        return self.records[node].state == State.IN_SERVICE

    @property
    def lacking(self) -> int:
        """Nodes that the job lacks."""
        return self._month.nodes - sum(r.state == State.IN_SERVICE for r in self.records)

    def remove(self, node: int, fault: str, now: float, dead: bool) -> bool:
        """Out of the job. False: the circuit breaker does not let it go."""
        if not dead and self._cares:
            out = sum(r.state not in (State.IN_SERVICE, State.BUFFER) for r in self.records)
            self.breaker, may = self.breaker.ask(now, str(node), fault, len(self.records), out)
            if not may:
                self.refused += 1
                self._later(now + self._month.person_s, self._close)
                return False
        if self._cares:
            self._advance(node, Faulted(fault), now)
            self._advance(node, Seen.EMPTY, now)
        else:
            self._into(node, self.records[node].into(State.REBOOTING, now), now)
            self._later(now + self._month.reboot_s, lambda t: self._back(node, t))
        return True

    def fill(self, now: float) -> list[int]:
        """Nodes of the buffer take free places; which ones."""
        waiting = {r.name: score(r, now) for r in self.records if r.state == State.BUFFER}
        lacks = self.lacking
        if self._cares:
            taken = [name for _, name in match([POOL] * lacks, waiting).placed]
            rest = sorted(set(waiting) - set(taken), key=lambda name: -waiting[name])
            taken += rest[: lacks - len(taken)]  # better a node with a history than a job that waits
        else:
            taken = list(waiting)[:lacks]
        for name in taken:
            self._into(int(name), self.records[int(name)].into(State.IN_SERVICE, now), now)
        return [int(name) for name in taken]

    # ---------------------------------------------------------------------------------------------------------- away

    def _into(self, node: int, record: Record, now: float) -> None:
        self.records[node] = record
        if record.state in (State.IN_SERVICE, State.BUFFER):
            self._ready(now)

    def _back(self, node: int, now: float) -> None:
        """After a reboot that nothing follows."""
        if self._rng.random() < self._month.mended:
            self.defects.pop(node, None)
        self._into(node, self.records[node].into(State.BUFFER, now), now)

    def _advance(self, node: int, event: Event, now: float) -> None:
        standing = Standing(score(self.records[node], now), POOL.least_score, self.lacking > 0)
        record, actions = advance(self.records[node], event, now, standing=standing)
        month, away = self._month, record.state not in (State.IN_SERVICE, State.BUFFER)

        def after(seconds: float, told: Callable[[], Event]) -> None:
            self._later(now + seconds, lambda t: self._advance(node, told(), t))

        for action in actions:
            match action:
                case Action.REBOOT:
                    after(month.reboot_s, lambda: self._rebooted(node))
                case Action.CHECK:
                    after(month.check_s, lambda: Checked(self._passes(node)))
                case Action.STRESS:
                    after(month.stress_s, lambda: Stressed(self._passes(node), month.stress_s))
                case Action.TELL if record.state == State.OUT:
                    after(month.repair_s, lambda: self._repaired(node))
        self.records[node] = record
        if not away:
            self._into(node, record, now)

    def _rebooted(self, node: int) -> Event:
        if self._rng.random() < self._month.mended:
            self.defects.pop(node, None)
        return Seen.UP_AGAIN

    def _repaired(self, node: int) -> Event:
        self.defects.pop(node, None)
        return Repaired("replace")

    def _passes(self, node: int) -> bool:
        return node not in self.defects or bool(self._rng.random() < self._month.missed)

    def _close(self, now: float) -> None:
        self.breaker = self.breaker.closed()
