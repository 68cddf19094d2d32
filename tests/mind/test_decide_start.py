"""An attempt that starts, and faults that nodes share: neither is a hang, or a node's fault."""

from __future__ import annotations

import pytest
from made_jobs import BUSY, IDLE, NODES, Job

from stepvideo.mind.classify import Finding
from stepvideo.mind.decide import Action, Decision, Mind
from stepvideo.mind.signals import NodeView, Observation

LOADS_S = 240


def look(mind: Mind, now: float, progress: float, working: bool, gauges: dict[str, float] = IDLE) -> Decision:
    views = {name: NodeView(name, 0.5, processes=8, gauges=gauges) for name in NODES}
    return mind.observe(Observation(now, progress, 50, 0, views, working))


def test_a_restarted_attempt_may_load_for_minutes_after_it_said_that_it_starts() -> None:
    job = Job()
    job.run(60)
    mind, usual_s = job.mind, job.mind.progress.limit_s
    mind.begin()
    for second in range(LOADS_S):  # `attempt_started` is logged in the third one, and nothing after it
        assert look(mind, 2000.0 + second, 1e6 + (second > 2), working=False).action == Action.WAIT
    for second in range(30):
        assert look(mind, 2300.0 + second, 2e6 + second, working=True, gauges=BUSY).action == Action.WAIT
    assert mind.progress.limit_s == usual_s  # the start is no gap to be learnt
    hung = [look(mind, 2330.0 + second, 2e6 + 29, working=True).action for second in range(30)]
    assert hung[-1] == Action.RESTART


def test_a_person_is_asked_about_an_attempt_that_never_does_a_step() -> None:
    """As of a watch that starts while a job stands: nothing is usual yet, so nothing can cease."""
    mind = Mind()
    said = [look(mind, float(second), 0.0, working=False, gauges=BUSY) for second in range(1000)]
    assert next(i for i, d in enumerate(said) if d.action == Action.ASK) == mind.policy.tolerance.start_s


@pytest.mark.parametrize(("hot", "planned"), [({"a"}, True), ({"a", "b"}, True), (set(NODES), False)])
def test_what_most_nodes_have_is_no_nodes_fault(hot: set[str], planned: bool) -> None:
    mind = Mind()
    actions = set()
    for second in range(120):
        views = {n: NodeView(n, 0.5, processes=8, gauges=BUSY) for n in NODES}
        views |= {n: NodeView(n, 0.5, gauges=BUSY, findings=(Finding("GPU_THROTTLED", "96 °C", n),)) for n in hot}
        actions.add(mind.observe(Observation(float(second), second, second, 0, views)).action)
    assert (Action.REPLACE in actions) == planned
