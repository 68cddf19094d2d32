"""StepMind's own decisions, and two that it is held against."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from stepvideo.mind.classify import Finding, root_cause
from stepvideo.mind.cluster import NodeState
from stepvideo.mind.decide import Action, Decision, Mind
from stepvideo.mind.faults import Blame
from stepvideo.mind.signals import Observation


class Policy(Protocol):
    """What `stepvideo.mind.decide.Mind` offers."""

    def observe(self, o: Observation) -> Decision: ...

    def ended(self, findings: Iterable[Finding]) -> Decision: ...

    def begin(self) -> None: ...


class _Restarts:
    """Whatever ended a job, it is started again, on whatever nodes there are."""

    def ended(self, findings: Iterable[Finding]) -> Decision:
        cause = root_cause(findings)
        return Decision(Action.RESTART, cause.name if cause else "SOFTWARE_FAULT")

    def begin(self) -> None: ...


class OneSignal(_Restarts):
    """The naive one: restarts as soon as any one signal was silent for a fixed time; takes every report at its word."""

    def __init__(self, limit_s: float = 60.0, share: float = 0.5) -> None:
        self._limit_s, self._share = limit_s, share
        self._usual: dict[str, float] = {}
        self._since: dict[str, float] = {}
        self._progress = -1.0

    def begin(self) -> None:
        self._since, self._progress = {}, -1.0

    def observe(self, o: Observation) -> Decision:
        for n, view in o.nodes.items():
            dead = view.state == NodeState.DOWN or self._limit_s < view.age_s < float("inf")
            fatal = [f.name for f in view.findings if f.fault.fatal and f.fault.blame == Blame.NODE]
            if dead or fatal:
                return Decision(Action.RESTART, fatal[0] if fatal else "NODE_SHUTDOWN", (n,), (n,) if dead else ())
        silent = {"progress": o.progress == self._progress}
        self._progress = o.progress
        for gauge in ("compute", "traffic"):
            value = _busiest(o, gauge)
            if value is not None:
                usual = self._usual.setdefault(gauge, value)
                silent[gauge] = value < self._share * usual
        for signal, is_silent in silent.items():
            if not is_silent:
                self._since.pop(signal, None)
            elif o.now - self._since.setdefault(signal, o.now) >= self._limit_s:
                return Decision(Action.RESTART, "HANG", reasons=(f"{signal} is silent",))
        return Decision()


class Waits(_Restarts):
    """Nobody watches: Slurm gives a node up after 300 s, and a collective that stands ends the program after 600 s."""

    def __init__(self, collective_s: float = 600.0) -> None:
        self._collective_s = collective_s
        self._progress, self._since = -1.0, 0.0

    def begin(self) -> None:
        self._progress = -1.0

    def observe(self, o: Observation) -> Decision:
        down = tuple(n for n, view in o.nodes.items() if view.state == NodeState.DOWN)
        if down:
            return Decision(Action.RESTART, "NODE_SHUTDOWN", down, down)
        traffic = _busiest(o, "traffic")
        if o.progress != self._progress or traffic:
            self._progress, self._since = o.progress, o.now
        busy = (_busiest(o, "compute") or 0.0) > 500 or (_busiest(o, "storage") or 0.0) > 1e6
        if not busy and o.now - self._since >= self._collective_s:
            return Decision(Action.RESTART, "HANG", reasons=("a collective operation timed out",))
        return Decision()


def _busiest(o: Observation, gauge: str) -> float | None:
    return max((v for n in o.nodes.values() if (v := n.gauges.get(gauge)) is not None), default=None)


POLICIES = {"stepmind": Mind, "one signal": OneSignal, "waits": Waits}
CARES = {"stepmind"}  # for nodes: checks, stress tests and a score before they come back
