"""From a fault to a node's return: every path ends, no path touches an admin's node."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stepvideo.mind.faults import CATALOGUE, Category
from stepvideo.mind.nodes import Kind, Record, State, first_seen
from stepvideo.mind.repair import (
    DAY,
    Action,
    Checked,
    Event,
    Faulted,
    Policy,
    Repaired,
    Seen,
    Standing,
    Stressed,
    Tick,
    advance,
)

OK, BAD, UNSURE = Checked(True), Checked(False, "Xid 48 again"), Checked(None, "disk took 10 s")
PASSED, FAILED = Stressed(True, 600.0), Stressed(False, 600.0, "gemm 70 %")
DBE = Faulted("GPU_DBE_ERROR", "Xid 48")


GOOD = Standing(0.9)


def run(*events: Event, record: Record | None = None, standing: Standing = GOOD) -> tuple[Record, list[Action]]:
    record = record or first_seen("node", "training", 0.0)
    done: list[Action] = []
    now = record.since
    for event in events:
        now += 10.0
        record, actions = advance(record, event, now, standing=standing)
        done += actions
    return record, done


def test_a_transient_fault_is_rebooted_checked_stressed_and_admitted() -> None:
    record, done = run(DBE, Seen.EMPTY, Seen.UP_AGAIN, OK, PASSED)
    assert done == [Action.DRAIN, Action.REBOOT, Action.CHECK, Action.STRESS, Action.TO_POOL]
    states = [e.name for e in record.history if e.kind == Kind.STATE]
    assert states[1:] == [State.DRAINING, State.REBOOTING, State.CHECKING, State.STRESSING, State.IN_SERVICE]
    alert, reboot, stress = (e for e in record.history if e.kind != Kind.STATE)
    assert (alert.name, alert.weight, alert.category) == ("GPU_DBE_ERROR", 1.0, Category.GPU)
    assert reboot.seconds == 10.0 and stress.seconds == 600.0 and record.fault == ""


def test_admission_to_the_pool_the_buffer_or_neither() -> None:
    way = (DBE, Seen.EMPTY, Seen.UP_AGAIN, OK, PASSED)
    for standing, state in (
        (Standing(0.9, pool_asks=0.97), State.BUFFER),
        (Standing(0.98, pool_asks=0.97), State.IN_SERVICE),
        (Standing(0.98, pool_asks=0.97, pool_lacks=False), State.BUFFER),
        (Standing(0.4, pool_asks=0.0), State.OUT),
    ):
        assert run(*way, standing=standing)[0].state == state


@pytest.mark.parametrize("bad", [BAD, FAILED])
def test_what_reboots_do_not_mend_goes_out_and_comes_back_through_checks_after_a_person(bad: Event) -> None:
    steps = [Seen.UP_AGAIN, bad] if bad is BAD else [Seen.UP_AGAIN, OK, bad]
    record, done = run(DBE, Seen.EMPTY, *steps, *steps)
    assert record.state == State.OUT and done.count(Action.REBOOT) == 2 and done[-1] == Action.TELL
    record, done = run(Repaired("replace", Category.GPU), OK, PASSED, record=record)
    assert record.state == State.IN_SERVICE and done == [Action.CHECK, Action.STRESS, Action.TO_POOL]


def test_the_catalogue_says_who_is_rebooted() -> None:
    for name, fault in CATALOGUE.items():
        state = run(Faulted(name), Seen.EMPTY)[0].state
        expected = {"reboot": State.REBOOTING, "inspect hardware": State.OUT, "reseat or replace": State.OUT}
        assert state == expected.get(fault.repair, State.CHECKING), name
    assert run(Faulted("NEVER_SEEN"), Seen.EMPTY)[0].state == State.REBOOTING


def test_a_repeated_offender_is_rebooted_no_more() -> None:
    record = first_seen("node", "training", 0.0)
    for _ in range(3):
        record, done = run(DBE, Seen.EMPTY, Seen.UP_AGAIN, OK, PASSED, record=record)
        assert Action.REBOOT in done
    record, done = run(DBE, Seen.EMPTY, record=record)
    assert record.state == State.OUT and Action.REBOOT not in done
    fixed, _ = run(Repaired("replace", Category.GPU), OK, PASSED, record=record)
    assert run(DBE, Seen.EMPTY, record=fixed)[0].state == State.REBOOTING
    later, _ = advance(fixed, DBE, fixed.since + 60 * DAY)
    assert advance(later, Seen.EMPTY, later.since)[0].state == State.REBOOTING


def test_checks_that_cannot_say_drain_nobody_and_admit_nobody() -> None:
    record = first_seen("node", "training", 0.0)
    assert advance(record, UNSURE, 1.0) == (record, ())
    record, done = run(DBE, Seen.EMPTY, Seen.UP_AGAIN, UNSURE)
    assert record.state == State.CHECKING and done[-1] == Action.CHECK
    assert run(UNSURE, record=record)[0].state == State.OUT


def test_steps_that_do_not_end_are_tried_again_and_then_given_up() -> None:
    record, _ = run(DBE, Seen.EMPTY)
    policy = Policy()
    done: list[Action] = []
    now = record.since
    while record.state == State.REBOOTING:
        now += policy.reboot_s + 1
        record, actions = advance(record, Tick(), now)
        done += actions
    assert record.state == State.OUT and done == [Action.REBOOT, Action.TELL]
    draining, _ = run(DBE)
    draining, actions = advance(draining, Tick(), draining.since + policy.drain_s + 1)
    assert draining.state == State.DRAINING and actions == (Action.TELL,)


def test_a_software_fault_is_not_the_nodes() -> None:
    record, _ = run(Faulted("CUDA_OOM"))
    assert [e.weight for e in record.history if e.kind == Kind.ALERT] == [0.0]


ANY = st.sampled_from(
    [DBE, Faulted("PCIE_DEGRADED"), *Seen, OK, BAD, UNSURE, PASSED, FAILED, Repaired("inspect"), Tick()]
)


@settings(max_examples=50)
@given(st.lists(ANY, max_size=30))
def test_nothing_is_done_to_a_node_that_an_admin_drained(events: list[Event]) -> None:
    record, now, held = first_seen("node", "training", 0.0), 0.0, False
    for event in events:
        now += 1000.0
        record, actions = advance(record, event, now)
        held = event is Seen.ADMIN_DRAINED or (held and event is not Seen.ADMIN_RESUMED)
        assert held == (record.state == State.ADMIN)
        assert not (held and actions)


@settings(max_examples=50)
@given(st.lists(ANY, max_size=60))
def test_reboots_are_bounded_and_only_tested_nodes_return(events: list[Event]) -> None:
    record, now = first_seen("node", "training", 0.0), 0.0
    reboots = 0
    for event in events:
        before, now = record, now + 1000.0
        record, actions = advance(record, event, now)
        assert record.history[: len(before.history)] == before.history
        reboots += actions.count(Action.REBOOT)
        if record.state in (State.IN_SERVICE, State.BUFFER) and before.state not in (State.IN_SERVICE, State.BUFFER):
            assert event is Seen.ADMIN_RESUMED or (before.state == State.STRESSING and event == PASSED)
    assert reboots <= Policy().offences * Policy().tries
