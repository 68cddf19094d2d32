"""A job as a policy sees it around a happening, second by second."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from stepvideo.mind.classify import Finding
from stepvideo.mind.cluster import NodeState
from stepvideo.mind.decide import Action, Decision
from stepvideo.mind.signals import NodeView, Observation
from stepvideo.mind.simulate.assumptions import Month
from stepvideo.mind.simulate.history import Happening, Shows
from stepvideo.mind.simulate.policies import Policy

SEEN = 8  # nodes of the job that are shown; the others would say the same (`tests/mind/test_month.py` compares)
BUSY = {"compute": 600.0, "traffic": 4e9, "storage": 0.0}  # a GPU's W, a node's bytes/s
WAITING = {"compute": 250.0, "traffic": 0.0, "storage": 0.0}  # in a collective that does not end
SAVING = {"compute": 150.0, "traffic": 0.0, "storage": 2e9}
STEPS_BEFORE = 3  # that are seen before something happens
GIVEN_UP_S = 4 * 3600.0
NOTICED_S = 600.0  # after it was named, and a checkpoint, nobody will care for a slow node by himself
SLURMD_S = 300.0  # Slurm's own patience with a node that does not answer


@dataclass(frozen=True)
class Answer:
    """What a policy did, and how long after the happening; None: nothing as long as it lasted."""

    decision: Decision | None
    after_s: float


def answer(policy: Policy, happening: Happening, month: Month, name: str, nodes: int = SEEN) -> Answer:
    """Shows a policy a job from a few steps before something happens until it acts.

    Args:
        name: of the node that it befalls.
        nodes: how many of the job's are shown.
    """
    look = _look(happening, month, name, nodes)
    for s in range(-int(STEPS_BEFORE * month.step_s) - 1, 0):
        policy.observe(look(float(s)))
    slow = happening.shows == Shows.DEGRADES
    lasts = happening.lasts_s or (happening.noticed_s + month.checkpoint_s + NOTICED_S if slow else GIVEN_UP_S)
    s = 0.0
    while s < lasts:
        decision = policy.observe(look(s))
        if decision.action in (Action.RESTART, Action.ASK):
            return Answer(decision, s)
        if decision.action == Action.REPLACE:  # nothing more happens before the next checkpoint
            s = max(_next(happening.time + s, month.checkpoint_s) - happening.time, s)
        s += 1.0
        if slow and happening.noticed_s > s > 60.0:
            s = happening.noticed_s
    return Answer(None, month.unnoticed_s if slow else lasts)


def _next(time: float, every: float) -> float:
    return (time // every + 1) * every


def _look(h: Happening, month: Month, name: str, nodes: int) -> Callable[[float], Observation]:
    others = [f"other{i}" for i in range(nodes - 1)]

    def look(s: float) -> Observation:
        now = h.time + s
        stands = s >= 0 and h.shows in (Shows.DEAD, Shows.REPORTED, Shows.STANDS, Shows.SAVES, Shows.VALIDATES)
        silent = stands or (s >= 0 and h.shows == Shows.LOG)
        step = int((h.time if silent else now) // month.step_s)
        healthy = _healthy(h, s)
        view = {"age_s": 0.5, "state": NodeState.UP, "processes": month.gpus_per_node, "gauges": healthy}
        views = dict.fromkeys(others, NodeView("", **view)) if others else {}
        views[name] = NodeView(name, **{**view, **_own(h, name, s)})
        return Observation(now, float(step), step, int(now // month.checkpoint_s), views)

    return look


def _healthy(h: Happening, s: float) -> dict[str, float | None]:
    """Gauges of a node that nothing befell."""
    if s < 0:
        return dict(BUSY)
    match h.shows:
        case Shows.DEAD | Shows.REPORTED | Shows.STANDS:
            return dict(WAITING)
        case Shows.SAVES:
            return dict(SAVING)
        case Shows.VALIDATES:
            return {**BUSY, "traffic": 0.0}
        case Shows.POWER:
            return {**BUSY, "compute": 100.0}
        case Shows.NETWORK:
            return {**BUSY, "traffic": 0.0}
    return dict(BUSY)


def _own(h: Happening, name: str, s: float) -> dict[str, object]:
    """How the node that it befalls differs from the others."""
    if s < 0:
        return {}
    match h.shows:
        case Shows.DEAD:
            state = NodeState.DOWN if s > SLURMD_S else NodeState.UP
            return {"age_s": s, "reachable": False if s > 3 else None, "gauges": {}, "processes": None, "state": state}
        case Shows.AGENT:
            return {"age_s": s, "reachable": True, "gauges": {}, "processes": None}
        case Shows.REPORTED if s >= 2:
            return {"findings": (Finding(h.fault, "its kernel's log", name),)}
        case Shows.DEGRADES if s >= h.noticed_s:
            return {"findings": (Finding("SLOW_NODE", "its ranks are slower", name),)}
    return {}
