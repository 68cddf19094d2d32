"""When to restart a job, without which nodes, and when not to (report §6.5).

`Mind` is a state machine of one job, fed with observations. Its rules, the first three of which restart:

- a node is dead: the scheduler says so; or its agent is silent and its daemon unreachable, and the job stands still
- a fatal fault is reported by a node, or the job's processes are gone from it, and the job does nothing any more
- a hang: progress and every other signal that is known to tell something have ceased, each for longer than is learnt
- a node is degraded, for a while: it is replaced once the next checkpoint is there
- progress has ceased for long and other signals go on, or restarts do not help: a person is asked

So no single signal restarts a job. No clock and no I/O here: the month's simulator runs the same code.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from stepvideo.mind.classify import Finding, from_state, root_cause
from stepvideo.mind.cluster import NodeState
from stepvideo.mind.faults import CATALOGUE, Blame, Repair
from stepvideo.mind.signals import GAUGES, NodeView, Observation, Pulse, Signal, Tolerance, reading


class Action(StrEnum):
    WAIT = "wait"
    REPLACE = "replace after checkpoint"
    ASK = "ask a person"
    RESTART = "restart"


SEVERITY = list(Action)


@dataclass(frozen=True)
class Decision:
    """What to do about a job.

    Attributes:
        fault: the cause, a name of the catalogue.
        nodes: to be kept from the next attempt.
        dead: those of them that do not answer any more.
    """

    action: Action = Action.WAIT
    fault: str = ""
    nodes: tuple[str, ...] = ()
    dead: tuple[str, ...] = ()
    reasons: tuple[str, ...] = ()
    evidence: Mapping[str, Any] = field(default_factory=dict)


@dataclass
class Policy:
    """How patient to be.

    Attributes:
        every_s: between observations; what a longer gap between two of them hid counts for three of these.
        agent_s: without a new snapshot, after which an agent is silent.
        confirm_s: without progress, and at least twice its usual gap, after which a job stands still.
        degraded_s: that a non-fatal fault must last.
        patience_s: without progress, though other signals go on, after which a person is asked.
        restarts: in a row without a new step, after which a person is asked.
    """

    tolerance: Tolerance = field(default_factory=Tolerance)
    every_s: float = 1.0
    agent_s: float = 3.0
    confirm_s: float = 2.0
    degraded_s: float = 30.0
    patience_s: float = 900.0
    restarts: int = 3

    def __post_init__(self) -> None:
        for name in ("every_s", "agent_s", "confirm_s", "degraded_s", "patience_s", "restarts"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} is {getattr(self, name)}; give more than 0")


class Mind:
    """Decides about one job, over all its attempts."""

    def __init__(self, policy: Policy | None = None) -> None:
        self.policy = policy or Policy()
        self.progress = Signal("progress", self.policy.tolerance)
        self.gauges = [Signal(name, self.policy.tolerance) for name in GAUGES]
        self._halted = Signal("processes", self.policy.tolerance)
        self._last: Observation | None = None
        self._had_processes: set[str] = set()
        self._fatal_since: dict[Finding, float] = {}  # when it was first reported
        self._survived: set[Finding] = set()  # fatal ones that the job went on after, or began with
        self._degraded: dict[tuple[str, str], float] = {}  # (node, fault) → since when it has been reported
        self._replace: tuple[Decision, int] | None = None  # decided, at that checkpoint
        self._furthest = 0  # step
        self._restarts: list[tuple[str, ...]] = []  # nodes that each ran on, since the furthest step has grown
        self._verdict: Decision | None = None  # of this attempt

    def observe(self, o: Observation) -> Decision:
        """Take in an observation of a running attempt; what is decided stays so until `begin`."""
        before, self._last = self._last, o
        seconds = min(max(o.now - before.now, 0.0), 3 * self.policy.every_s) if before else 0.0
        progressed = before is not None and o.progress != before.progress
        if before is not None:
            (self.progress.beat if o.working else self.progress.stir)(progressed, seconds)
        for signal in self.gauges:
            signal.gauge(reading(o, signal.name, self.policy.agent_s), seconds, progressed and o.working)
        self._note_fatal(o, first=before is None, progressed=progressed)
        if any(n.stopped for n in o.nodes.values()):
            self._halted.beat(False, seconds)
        else:
            self._halted.restarted()  # that a program is not stopped says nothing
        self._had_processes |= {n.name for n in o.nodes.values() if n.processes}
        if o.step > self._furthest:
            self._furthest, self._restarts = o.step, []
        if self._verdict is None:
            self._verdict = self._act(o)
        return self._verdict or self._plan(o)

    def begin(self) -> None:
        """A new attempt has started; what was learnt of signals stays."""
        for signal in (self.progress, *self.gauges, self._halted):
            signal.restarted()
        self._last = self._verdict = self._replace = None
        self._had_processes.clear()
        self._degraded.clear()
        self._fatal_since.clear()
        self._survived.clear()

    def ended(self, findings: Iterable[Finding]) -> Decision:
        """An attempt has ended by itself; `findings` are of its exit, its output and its nodes (`classify`)."""
        found = [*findings, *(f for f in self._reported() if f.fault.fatal and f not in self._survived)]
        cause = root_cause(found)
        if cause is None:
            return Decision()
        if cause.fault.repair == Repair.USER_CODE and self._restarts:
            said = f"{cause.name} again, at or before step {self._furthest}"
            return Decision(Action.ASK, cause.name, reasons=(said, cause.evidence))
        blamed = cause.fault.blame == Blame.NODE and cause.node
        return self._restart(cause.name, (cause.node,) if blamed else (), [cause.evidence])

    # ------------------------------------------------------------------------------------------------------ restarts

    def _act(self, o: Observation) -> Decision | None:
        return self._dead(o) or self._fatal(o) or self._gone(o) or self._hang(o) or self._checkpointed(o)

    def _stands(self) -> bool:
        """No progress for longer than between two steps."""
        return self.progress.silent_s >= self._between()

    def _idle(self) -> bool:
        """It worked, and stands, and no gauge shows life: neither a checkpoint nor a validation."""
        return self.progress.seen and self._stands() and not any(s.pulse == Pulse.ALIVE for s in self.gauges)

    def _note_fatal(self, o: Observation, first: bool, progressed: bool) -> None:
        """A fatal fault after which the job goes on is none of its own: a port that it spares, a line of its past."""
        now = {f for n in o.nodes.values() for f in n.findings if f.fault.fatal}
        self._fatal_since = {f: self._fatal_since.get(f, o.now) for f in now}
        grace = self._between()
        old = {f for f, since in self._fatal_since.items() if first or (progressed and o.now - since > grace)}
        self._survived = (self._survived & now) | old

    def _between(self) -> float:
        return max(self.policy.confirm_s, 2 * self.progress.typical_s)

    def _dead(self, o: Observation) -> Decision | None:
        down = [n for n in o.nodes.values() if n.state == NodeState.DOWN]
        mute = [n for n in o.nodes.values() if self._mute(n)] if self._stands() else []
        if not down and not mute:
            return None
        reasons = [f"{f.node}: {f.evidence}" for n in down for f in from_state(n.name, n.state)]
        reasons += [f"{n.name}: no snapshot for {n.age_s:.1f} s, its daemon does not answer" for n in mute]
        dead = tuple(dict.fromkeys(n.name for n in (*down, *mute)))
        return self._restart("NODE_SHUTDOWN", dead, reasons, dead)

    def _mute(self, n: NodeView) -> bool:
        """Two of: its agent, its daemon, the scheduler's own word."""
        agent = self.policy.agent_s < n.age_s < float("inf")
        return [agent, n.reachable is False, n.state == NodeState.UNRESPONSIVE].count(True) >= 2

    def _fatal(self, o: Observation) -> Decision | None:
        cause = root_cause(f for f in self._reported() if f.fault.fatal and f not in self._survived)
        if cause is None or not self._idle():
            return None
        nodes = (cause.node,) if cause.fault.blame == Blame.NODE else ()
        return self._restart(cause.name, nodes, [f"{cause.node}: {cause.evidence}"])

    def _gone(self, o: Observation) -> Decision | None:
        gone = [n.name for n in o.nodes.values() if n.processes == 0 and n.name in self._had_processes]
        fresh = [name for name in gone if o.nodes[name].age_s <= self.policy.agent_s]
        if not fresh or not self._idle():
            return None
        return self._restart("PROCESS_KILLED", (), [f"{', '.join(fresh)}: the job's processes are gone"])

    def _hang(self, o: Observation) -> Decision | None:
        votes = [s for s in (*self.gauges, self._halted) if s.pulse != Pulse.UNKNOWN]
        if not votes or not self._ceased() or not all(s.ceased for s in votes) or any(s.lively for s in self.gauges):
            return None
        return self._restart("HANG", self._culprits(o), [str(s) for s in (self.progress, *votes)])

    def _ceased(self) -> bool:
        if not self.progress.seen:  # it starts: it loads, compiles, waits for others
            return self.progress.silent_s >= self.policy.tolerance.start_s
        return self.progress.ceased

    def _culprits(self, o: Observation) -> tuple[str, ...]:
        """Nodes that differ from the others; if none does, those that were there when it hung at this step before."""
        stopped = [n.name for n in o.nodes.values() if n.stopped]
        ill = [f.node for f in self._reported() if f.fault.blame == Blame.NODE]
        again = set(self._restarts[-1]) & set(o.nodes) if self._restarts else set()
        for suspects in (stopped, ill, sorted(again)):
            if suspects and (len(set(suspects)) < len(o.nodes) or len(o.nodes) == 1):
                return tuple(dict.fromkeys(suspects))
        return ()

    def _restart(self, fault: str, nodes: tuple[str, ...], reasons: list[str], dead: tuple[str, ...] = ()) -> Decision:
        if len(self._restarts) >= self.policy.restarts:
            often = f"{len(self._restarts)} restarts in a row, and no step beyond {self._furthest}"
            return Decision(Action.ASK, fault, nodes, dead, (often, *reasons), self._evidence())
        self._restarts.append(tuple(self._last.nodes) if self._last else ())
        return Decision(Action.RESTART, fault, nodes, dead, tuple(reasons), self._evidence())

    # ----------------------------------------------------------------------------------------------------- no restart

    def _plan(self, o: Observation) -> Decision:
        lasting = self._lasting(o)
        if self._replace is None and lasting:
            nodes = tuple(dict.fromkeys(f.node for f in lasting))
            reasons = tuple(f"{f.node}: {f.evidence}" for f in lasting)
            planned = Decision(Action.REPLACE, lasting[0].name, nodes, (), reasons, self._evidence())
            self._replace = planned, o.checkpoints
        start_s = 0.0 if self.progress.seen else self.policy.tolerance.start_s
        if self.progress.silent_s >= max(self.policy.patience_s, start_s):
            others = ", ".join(str(s) for s in self.gauges if s.pulse != Pulse.UNKNOWN) or "nothing else is known"
            return Decision(Action.ASK, "HANG", (), (), (str(self.progress), others), self._evidence())
        return self._replace[0] if self._replace else Decision()

    def _checkpointed(self, o: Observation) -> Decision | None:
        if self._replace is None or o.checkpoints == self._replace[1]:
            return None
        planned = self._replace[0]
        return self._restart(planned.fault, planned.nodes, [*planned.reasons, "a checkpoint was saved since"])

    def _lasting(self, o: Observation) -> list[Finding]:
        """Non-fatal findings that blame a node and have been reported for `degraded_s` without a break."""
        now = [f for f in self._reported() if not f.fault.fatal and f.fault.blame == Blame.NODE]
        nodes = Counter(name for _, name in {(f.node, f.name) for f in now})
        now = [f for f in now if nodes[f.name] <= max(1, len(o.nodes) // 2)]  # else they share its cause
        self._degraded = {(f.node, f.name): self._degraded.get((f.node, f.name), o.now) for f in now}
        return [f for f in now if o.now - self._degraded[f.node, f.name] >= self.policy.degraded_s]

    def _reported(self) -> list[Finding]:
        nodes = self._last.nodes.values() if self._last else ()
        return [f for n in nodes for f in n.findings if not CATALOGUE[f.name].symptom]

    def _evidence(self) -> dict[str, Any]:
        signals = {s.name: [s.pulse.value, round(s.silent_s, 2), round(s.limit_s, 2)] for s in self._known()}
        return {"signals": signals, "step": self._furthest}

    def _known(self) -> list[Signal]:
        return [s for s in (self.progress, *self.gauges, self._halted) if s.pulse != Pulse.UNKNOWN]
