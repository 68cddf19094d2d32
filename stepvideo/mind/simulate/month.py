"""One job through one month: what happens, what the policy does about it, and where the time goes."""

from __future__ import annotations

import copy
import heapq
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from stepvideo.mind.classify import from_output
from stepvideo.mind.decide import Action, Decision
from stepvideo.mind.simulate.assumptions import HARDWARE, Month
from stepvideo.mind.simulate.fleet import Fleet
from stepvideo.mind.simulate.history import NOISE, Happening, Shows, draw, hardware
from stepvideo.mind.simulate.policies import CARES, POLICIES
from stepvideo.mind.simulate.scene import answer

OUTPUT = {
    "CUDA_OOM": "torch.OutOfMemoryError: CUDA out of memory",
    "SOFTWARE_FAULT": "Traceback (most recent call last):",
}
STAYS_S = 3600.0  # mean time until a faulty node that was left in the job shows it again
ENDS_S = 1.0  # until the launcher knows that a program has ended


@dataclass
class Outcome:
    """Seconds of a month, and counts.

    Attributes:
        lost_s: of iterations that were done again.
        detecting_s: the job stood, and the policy had not acted.
        down_s: from a policy's act to the first step.
        waiting_s: of that, there were too few nodes.
        holding_s: checkpoints were taken.
        slowed_s: iterations' time that degraded nodes added.
        restarts: {cause: how many}; those of `noise` had none.
        asked: a person was.
    """

    policy: str
    seed: int
    total_s: float
    lost_s: float = 0.0
    detecting_s: float = 0.0
    down_s: float = 0.0
    waiting_s: float = 0.0
    holding_s: float = 0.0
    slowed_s: float = 0.0
    restarts: Counter[str] = field(default_factory=Counter)
    asked: int = 0
    refused: int = 0

    @property
    def effective(self) -> float:
        """Iteration time over training time, as in the report."""
        return 1 - (self.lost_s + self.detecting_s + self.down_s + self.holding_s) / self.total_s

    @property
    def productive(self) -> float:
        """The same, less what slow nodes cost."""
        return self.effective - self.slowed_s / self.total_s

    @property
    def false(self) -> int:
        return self.restarts["noise"]

    def as_dict(self) -> dict[str, Any]:
        made = {"effective": self.effective, "productive": self.productive, "false": self.false}
        return {**asdict(self), "restarts": dict(self.restarts), **made}


def run(month: Month, seed: int, policy: str) -> Outcome:
    """A month of that seed under a policy, `POLICIES`' name of it."""
    return _Run(month, seed, policy).outcome


class _Run:
    def __init__(self, month: Month, seed: int, policy: str) -> None:
        self._month, self._policy = month, POLICIES[policy]()
        self._rng = np.random.default_rng([seed, 3])
        self._queue: list[tuple[float, int, Callable[[float], None]]] = []
        self._count = 0
        self._fleet = Fleet(month, seed, policy in CARES, self._later, self._ready)
        self._start = 0.0  # of the attempt's first step
        self._up = 0.0  # until then the job is down; inf: it waits for nodes
        self._stood = 0.0  # since when it waits
        self._slow: set[int] = set()  # degraded nodes in the job
        self._counted = 0.0  # what they cost is counted until then
        self._held: list[Callable[[float], None]] = []  # what came while there was no job
        self.outcome = Outcome(policy, seed, month.seconds)
        for happening in draw(month, seed):
            self._later(happening.time, lambda t, h=happening: self._happens(h, t))
        while self._queue and self._queue[0][0] < month.seconds:
            now, _, call = heapq.heappop(self._queue)
            call(now)
        self._end()

    def _later(self, time: float, call: Callable[[float], None]) -> None:
        self._count += 1
        heapq.heappush(self._queue, (time, self._count, call))

    # ------------------------------------------------------------------------------------------------------ happenings

    def _happens(self, h: Happening, now: float) -> None:
        if h.node is not None and not self._fleet.serves(h.node):
            return  # checks find it where it is
        if now < self._up:
            if h.shows not in NOISE:
                self._held.append(lambda t: self._happens(h, t))
            return
        h = replace(h, time=now)
        if h.shows == Shows.DEGRADES:
            self._degrades(h, now)
            return
        if h.node is not None and not h.mends:
            self._fleet.defects[h.node] = h.fault
        if h.shows == Shows.ENDS:
            self._ends(h, now)
            return
        seen = answer(self._policy, h, self._month, str(h.node))
        acted = now + seen.after_s
        if seen.decision and seen.decision.action == Action.RESTART:
            self._restart(h.fault or "noise", seen.decision, acted if h.shows in NOISE else now, acted)
        elif seen.decision:
            self.outcome.asked += 1
            acted += self._month.person_s
        if h.shows in NOISE:
            return
        if not seen.decision or seen.decision.action == Action.ASK:
            self._by_hand(h, now, acted)
        if h.node is not None and self._fleet.serves(h.node):  # nobody knew whose fault it was
            self._fleet.defects[h.node] = h.fault
            self._relapse(h.node, STAYS_S)

    def _degrades(self, h: Happening, now: float) -> None:
        """The job goes on, slower; what the policy does about it comes later, whatever else happens meanwhile."""
        assert h.node is not None
        seen = answer(copy.deepcopy(self._policy), h, self._month, str(h.node))

        def replaced(then: float, node: int = h.node) -> None:
            if node not in self._slow:
                return
            if then < self._up:
                self._held.append(replaced)
            elif seen.decision and seen.decision.action == Action.RESTART:
                self._restart(h.fault, seen.decision, then, then, saved=True)
            else:
                self._by_hand(h, then, then, saved=True)

        self._count_slow(now)
        self._slow.add(h.node)
        if not h.mends:
            self._fleet.defects[h.node] = h.fault
        self._later(now + seen.after_s, replaced)

    def _ends(self, h: Happening, now: float) -> None:
        decision = self._policy.ended(from_output(OUTPUT[h.fault]))
        self._restart(h.fault, decision, now, now + ENDS_S)
        if h.again:  # at the same step; a person mends it after that
            again = self._policy.ended(from_output(OUTPUT[h.fault]))
            self.outcome.asked += again.action == Action.ASK
            self._restart(h.fault, again, self._up, self._up + self._month.person_s)

    def _by_hand(self, h: Happening, stood: float, acted: float, saved: bool = False) -> None:
        """What a person does."""
        decision = Decision(Action.RESTART, h.fault, () if h.node is None else (str(h.node),))
        self._restart(h.fault, decision, stood, acted, saved)

    def _relapse(self, node: int, mean_s: float) -> None:
        def show(now: float) -> None:
            if node in self._fleet.defects and self._fleet.serves(node):
                row = str(self._rng.choice(list(HARDWARE)))
                self._happens(hardware(self._month, self._rng, now, node, row), now)

        self._later(max(self._up, self._stood) + self._rng.exponential(mean_s), show)

    # -------------------------------------------------------------------------------------------------------- restarts

    def _restart(self, cause: str, decision: Decision, stood: float, acted: float, saved: bool = False) -> None:
        """The job stood from `stood` on, and is started again at `acted`. saved: a checkpoint is not older."""
        out = self.outcome
        stood, acted = min(stood, self._month.seconds), min(acted, self._month.seconds)
        self._hold(stood)
        self._count_slow(stood)
        if not saved:
            out.lost_s += (stood - self._start) % self._month.checkpoint_s if stood > self._start else 0.0
        out.detecting_s += acted - stood
        out.restarts[cause] += 1
        for name in decision.nodes:
            if name.isdigit() and self._fleet.serves(int(name)):
                if self._fleet.remove(int(name), decision.fault, acted, name in decision.dead):
                    self._slow.discard(int(name))
        self._policy.begin()
        self._stood, self._up = acted, float("inf")
        self._begin(acted)

    def _hold(self, until: float) -> None:
        """Checkpoints of the attempt that ends."""
        self.outcome.holding_s += max(until - self._start, 0.0) // self._month.checkpoint_s * self._month.hold_s

    def _count_slow(self, until: float) -> None:
        """What degraded nodes have cost so far; a job is as slow as its slowest node."""
        if self._slow:
            self.outcome.slowed_s += self._month.slowdown * max(until - max(self._counted, self._start), 0.0)
        self._counted = until

    def _ready(self, now: float) -> None:
        if self._up == float("inf"):
            self._begin(now)

    def _begin(self, now: float) -> None:
        """Starts the job if there are nodes for it."""
        up, self._up = self._up, 0.0  # `fill` tells of nodes, which is no news here
        taken = self._fleet.fill(now)
        self._up = up
        if self._fleet.lacking:
            return
        self.outcome.waiting_s += now - self._stood
        self._up = self._start = now + self._month.requeue_s + self._month.running_s + self._month.start_s
        self.outcome.down_s += min(self._up, self._month.seconds) - self._stood
        for node in taken:
            if node in self._fleet.defects:
                self._relapse(node, self._month.relapse_s)
        for call in self._held:
            self._later(self._up + 1, call)
        self._held = []

    def _end(self) -> None:
        if self._up == float("inf"):
            self.outcome.down_s += self._month.seconds - self._stood
            self.outcome.waiting_s += self._month.seconds - self._stood
        else:
            self._hold(self._month.seconds)
            self._count_slow(self._month.seconds)
        self.outcome.refused = self._fleet.refused
