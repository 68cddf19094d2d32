"""No single signal restarts a job, noise does not, and what is wrong does, soon."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from made_jobs import BUSY, IDLE, NODES, Job, alter

from stepvideo.mind.classify import Finding
from stepvideo.mind.cluster import NodeState
from stepvideo.mind.decide import SEVERITY, Action, Decision, Policy
from stepvideo.mind.signals import NodeView

XID_79 = Finding("GPU_LOST", "NVRM: Xid (PCI:0000:3b:00): 79", "b")
HOT = Finding("GPU_THROTTLED", "GPU 3: hw_thermal, 96 °C", "c")
Change = Callable[[dict[str, NodeView]], None]


def until(job: Job, limit_s: int, **tick) -> tuple[int, Decision]:
    """Seconds until something was decided, and what."""
    for second in range(1, limit_s + 1):
        decision = job.tick(**tick)
        if decision.action != Action.WAIT:
            return second, decision
    return limit_s, decision


@pytest.fixture
def job() -> Job:
    job = Job()
    job.run(60)
    return job


# ------------------------------------------------------------------------------------------------- what must be seen


def test_a_hang_is_seen_within_half_a_minute(job: Job) -> None:
    seconds, decision = until(job, 60, gauges=IDLE, steps=False)
    assert (decision.action, decision.fault, decision.nodes) == (Action.RESTART, "HANG", ()) and seconds <= 30
    assert decision.evidence["signals"]["progress"][0] == "silent"


def test_a_hang_with_stopped_processes_blames_their_node(job: Job) -> None:
    seconds, decision = until(job, 60, gauges=IDLE, steps=False, change=alter("b", stopped=True))
    assert (decision.action, decision.nodes) == (Action.RESTART, ("b",)) and seconds <= 30


def test_gpus_that_spin_in_a_collective_do_not_hide_a_hang(job: Job) -> None:
    assert until(job, 60, gauges=IDLE | {"compute": 150.0}, steps=False)[1].action == Action.RESTART


def test_a_dead_node_is_seen_at_once(job: Job) -> None:
    died = job.now

    def dead(views: dict[str, NodeView]) -> None:
        age = job.now - died
        views["b"] = replace(views["b"], age_s=age, reachable=False if age > 3 else None)

    seconds, decision = until(job, 20, gauges=IDLE, steps=False, change=dead)
    assert (decision.action, decision.fault) == (Action.RESTART, "NODE_SHUTDOWN") and seconds <= 4
    assert decision.nodes == decision.dead == ("b",)


def test_a_node_that_the_scheduler_has_down_is_dead(job: Job) -> None:
    decision = job.tick(IDLE, steps=False, change=alter("d", state=NodeState.DOWN))
    assert (decision.action, decision.dead) == (Action.RESTART, ("d",))


def test_a_fatal_fault_counts_once_the_job_stands_still(job: Job) -> None:
    seconds, decision = until(job, 20, gauges=IDLE, steps=False, change=alter("b", findings=(XID_79,)))
    assert (decision.action, decision.fault, decision.nodes) == (Action.RESTART, "GPU_LOST", ("b",)) and seconds <= 3


def test_a_fatal_fault_soon_after_the_start_counts_too() -> None:
    job = Job()
    job.run(3)
    seconds, decision = until(job, 20, gauges=IDLE, steps=False, change=alter("b", findings=(XID_79,)))
    assert (decision.action, decision.nodes) == (Action.RESTART, ("b",)) and seconds <= 3


def test_processes_that_are_gone(job: Job) -> None:
    seconds, decision = until(job, 20, gauges=IDLE, steps=False, change=alter("b", processes=0))
    assert (decision.action, decision.fault, decision.nodes) == (Action.RESTART, "PROCESS_KILLED", ()) and seconds <= 3


def test_a_slow_node_is_replaced_after_the_next_checkpoint(job: Job) -> None:
    seconds, decision = until(job, 60, change=alter("c", findings=(HOT,)))
    assert (decision.action, decision.nodes) == (Action.REPLACE, ("c",)) and seconds >= 30
    for _ in range(20):
        assert job.tick(change=alter("c", findings=(HOT,))).action == Action.REPLACE
    job.checkpoints += 1
    decision = job.tick()
    assert (decision.action, decision.fault, decision.nodes, decision.dead) == (
        Action.RESTART, "GPU_THROTTLED", ("c",), ()
    )  # fmt: skip


def test_before_the_first_step_there_is_time(job: Job) -> None:
    job.mind.begin()
    for _ in range(600):
        assert job.tick(IDLE, steps=False).action == Action.WAIT
    assert job.tick().action == Action.WAIT


def test_restarts_that_do_not_help_end_with_a_person(job: Job) -> None:
    for _ in range(3):
        assert until(job, 60, gauges=IDLE, steps=False)[1].action == Action.RESTART
        job.mind.begin()
        job.tick(steps=False, log=True)
        job.tick(steps=False, log=True)
    decision = until(job, 60, gauges=IDLE, steps=False)[1]
    assert decision.action == Action.ASK and "3 restarts in a row" in decision.reasons[0]


def test_a_second_hang_at_the_same_step_blames_nodes_that_were_there_both_times(job: Job) -> None:
    assert until(job, 60, gauges=IDLE, steps=False)[1].nodes == ()
    job.mind.begin()

    def moved(views: dict[str, NodeView]) -> None:
        for old in ("a", "b", "c"):
            views[f"{old}2"] = replace(views.pop(old), name=f"{old}2")

    for _ in range(3):
        job.tick(steps=False, log=True, change=moved)
    assert until(job, 60, gauges=IDLE, steps=False, change=moved)[1].nodes == ("d",)


def test_how_an_attempt_ended_decides_who_is_kept_from_the_next(job: Job) -> None:
    crash = Finding("SOFTWARE_FAULT", "exit code 1", "b")
    assert job.mind.ended([]).action == Action.WAIT
    first = job.mind.ended([crash])
    assert (first.action, first.nodes) == (Action.RESTART, ())
    again = job.mind.ended([crash])
    assert again.action == Action.ASK and "again" in again.reasons[0]
    job.tick()
    blamed = job.mind.ended([crash, XID_79])
    assert (blamed.action, blamed.fault, blamed.nodes) == (Action.RESTART, "GPU_LOST", ("b",))


# ------------------------------------------------------------------------------------------------- what must not act


SINGLE: dict[str, dict] = {
    "log": {"steps": False, "log": False},
    "power": {"gauges": BUSY | {"compute": 80.0}},
    "network": {"gauges": BUSY | {"traffic": 0.0}},
    "one GPU's power": {"change": alter("b", gauges=IDLE)},
    "a line of the kernel's log": {"change": alter("b", findings=(XID_79,))},
    "an agent's silence": {"change": alter("b", age_s=300.0)},
    "a daemon's silence": {"change": alter("b", reachable=False)},
    "the scheduler's doubt": {"change": alter("b", state=NodeState.UNRESPONSIVE)},
    "no processes": {"change": alter("b", processes=0)},
    "stopped processes": {"change": alter("b", stopped=True)},
    "an admin's drain": {"change": alter("b", state=NodeState.DRAINED)},
}


@pytest.mark.parametrize("what", SINGLE)
def test_one_misleading_signal_restarts_nothing(job: Job, what: str) -> None:
    for _ in range(1200):
        assert job.tick(**SINGLE[what]).action in (Action.WAIT, Action.ASK)


@pytest.mark.parametrize("what", SINGLE)
def test_nor_before_the_first_step(job: Job, what: str) -> None:
    job.mind.begin()
    for _ in range(600):
        assert job.tick(**{"gauges": IDLE, **SINGLE[what], "steps": False}).action in (Action.WAIT, Action.ASK)


def test_a_fatal_line_that_the_job_survived_makes_no_later_pause_a_fault(job: Job) -> None:
    ill = alter("b", findings=(XID_79,))
    for _ in range(60):
        assert job.tick(change=ill).action == Action.WAIT
    for storage in [0.0, 1e8, 1e8] * 4:
        assert job.tick(IDLE | {"storage": storage}, steps=False, change=ill).action == Action.WAIT
    assert job.tick(change=ill).action == Action.WAIT
    fresh = alter("b", findings=(XID_79, replace(XID_79, evidence="NVRM: Xid (PCI:0000:9a:00): 79")))
    assert until(job, 10, gauges=IDLE, steps=False, change=fresh)[1].fault == "GPU_LOST"


def test_a_line_of_the_last_attempt_does_not_restart_the_next(job: Job) -> None:
    oom = alter("b", findings=(Finding("HOST_OOM", "oom-kill: …", "b"),))
    assert until(job, 10, gauges=IDLE, steps=False, change=oom)[1].fault == "HOST_OOM"
    job.mind.begin()
    for _ in range(20):
        assert job.tick(IDLE, steps=False, change=oom).action == Action.WAIT
    for _ in range(20):
        assert job.tick(change=oom).action == Action.WAIT


def test_a_fatal_line_during_a_checkpoint_restarts_nothing(job: Job) -> None:
    for second in range(20):
        ill = alter("b", findings=(XID_79,) if second > 8 else ())
        assert job.tick(IDLE | {"storage": 1e8}, steps=False, change=ill).action == Action.WAIT


def test_a_person_is_asked_if_only_the_log_is_silent(job: Job) -> None:
    seconds, decision = until(job, 1200, steps=False)
    assert decision.action == Action.ASK and 900 <= seconds <= 910


NOISE = ("checkpoint", "validation", "data stall", "counters reset", "agent restart", "clock step", "observer asleep")


def noise(job: Job, what: str, rng: random.Random) -> Iterator[Decision]:
    """What a healthy job may look like for a while."""
    seconds = rng.randint(5, 60)
    if what == "checkpoint":  # nothing but the disk is busy
        for _ in range(seconds):
            yield job.tick(IDLE | {"storage": rng.uniform(1e6, 5e8)}, steps=False)
        job.checkpoints += 1
    elif what == "validation":  # forward passes only, now and then a line in the log
        for i in range(seconds):
            gauges = {"compute": rng.uniform(350, 700), "traffic": 0.0, "storage": 0.0}
            yield job.tick(gauges, steps=False, log=i % 20 == 19)
    elif what == "data stall":  # the loader waits for storage, and then reads; a short one has no sign of life at all
        for i in range(seconds):
            reads = rng.uniform(2e5, 1e7) if i % 10 >= 8 else 0.0
            yield job.tick(IDLE | {"storage": reads}, steps=False)
    elif what == "counters reset":
        for _ in range(seconds):
            yield job.tick(change=alter("*", gauges={"compute": 600.0, "traffic": None, "storage": None}))
    elif what == "agent restart":  # of all nodes at once: an update
        for age in range(seconds):
            blind = alter("*", age_s=float(age), processes=None, gauges={})
            yield job.tick(steps=rng.random() < 0.8, change=blind)
        yield job.tick(change=alter("*", processes=0, gauges={}))  # it has not looked yet
    elif what == "clock step":
        yield job.tick(steps=False, seconds=rng.choice([-3600.0, -5.0, 3600.0]))
    else:  # the observer did not run for a minute; it finds the job in a checkpoint's pause
        yield job.tick(IDLE, steps=False, seconds=float(seconds))
    for _ in range(rng.randint(1, 30)):
        yield job.tick()


@pytest.mark.parametrize("step_s", [0.5, 8.0])
def test_a_hundred_noises_restart_nothing(step_s: float) -> None:
    job, rng = Job(step_s=step_s), random.Random(7)
    done = 0.0
    for _ in range(120):
        done += 1 / step_s
        job.tick(log=done % 1 < 1 / step_s)
    found = [d for i in range(100) for d in noise(job, NOISE[i % len(NOISE)], rng)]
    assert {d.action for d in found} == {Action.WAIT} and len(found) > 2000
    limit = max(30.0, 6 * step_s)
    seconds, decision = until(job, 600, gauges=IDLE, steps=False)  # and it still sees a hang
    assert decision.action == Action.RESTART and seconds <= 1.5 * 60 + limit


ORDER = {"alive": 0, "unknown": 1, "silent": 2}


def gauges_of(pulses: dict[str, str]) -> Change:
    levels = {"alive": BUSY, "unknown": {}, "silent": IDLE}
    return alter("*", gauges={g: levels[pulses[g]].get(g) for g in ("compute", "traffic")})


def decided(pulses: dict[str, str], seconds: int) -> Action:
    job = Job()
    job.run(30)
    for _ in range(seconds):
        action = job.tick(steps=pulses["progress"] == "alive", change=gauges_of(pulses)).action
    return action


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_more_silence_never_calms(data: st.DataObject) -> None:
    """The decision is monotone in every signal and in time."""
    pulse = st.sampled_from(list(ORDER))
    before = {name: data.draw(pulse) for name in ("compute", "traffic")}
    before["progress"] = data.draw(st.sampled_from(["alive", "silent"]))  # the log is always there
    name = data.draw(st.sampled_from(list(before)))
    others = ["alive", "silent"] if name == "progress" else list(ORDER)
    worse = {**before, name: data.draw(st.sampled_from([p for p in others if ORDER[p] >= ORDER[before[name]]]))}
    seconds = data.draw(st.integers(1, 40))
    actions = [SEVERITY.index(decided(p, s)) for p, s in ((before, seconds), (worse, seconds), (worse, seconds + 10))]
    assert actions == sorted(actions)
    silent = [p for p in worse.values() if p == "silent"]
    assert len(silent) >= 2 or actions[1] < SEVERITY.index(Action.RESTART)


def test_a_policy_of_no_patience_is_refused() -> None:
    with pytest.raises(ValueError, match="confirm_s is 0; give more than 0"):
        Policy(confirm_s=0)
    assert set(NODES) == {"a", "b", "c", "d"}
