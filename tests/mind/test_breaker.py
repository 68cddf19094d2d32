"""The circuit breaker: single faults pass, mass drains do not, and only a person closes it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepvideo.mind.breaker import Breaker, Limits

LIMITS = Limits(window_s=3600, always=2, same_cause=0.02, drained=0.05, out=0.2)


def drains(count: int, cause: str, fleet: int = 500, every_s: float = 1.0, out: int = 0) -> tuple[Breaker, int]:
    breaker, passed = Breaker(), 0
    for i in range(count):
        breaker, ok = breaker.ask(i * every_s, f"n{i}", cause, fleet, out + passed, LIMITS)
        passed += ok
    return breaker, passed


def test_a_check_that_is_broken_everywhere_stops_at_its_share() -> None:
    breaker, passed = drains(500, "disk")
    assert passed == 10 and "11 of 500 nodes fail disk within 3600 s" in breaker.open and breaker.opened == 10


def test_single_faults_over_a_month_do_not_open_it() -> None:
    breaker, passed = drains(100, "disk", every_s=7 * 3600)
    assert passed == 100 and not breaker.open


def test_different_causes_and_nodes_out_of_service_have_limits_too() -> None:
    breaker = Breaker()
    for i in range(26):
        breaker, ok = breaker.ask(i, f"n{i}", f"cause{i}", 500, 0, LIMITS)
    assert not ok and "26 of 500 drains" in breaker.open
    assert not Breaker().ask(0, "n", "disk", 500, 100, LIMITS)[1]


def test_open_it_refuses_all_until_a_person_closes_it() -> None:
    breaker, _ = drains(20, "disk")
    later, ok = breaker.ask(1e9, "other", "memory", 500, 0, LIMITS)
    assert not ok and later == breaker
    assert breaker.closed().ask(1e9, "other", "memory", 500, 0, LIMITS)[1]
    assert Breaker.of_json(breaker.json()) == breaker


def test_a_small_cluster_may_drain_a_node_and_one_node_counts_once() -> None:
    breaker, passed = drains(2, "disk", fleet=4)
    assert passed == 2
    assert breaker.ask(2, "n0", "disk", 4, 2, LIMITS) == (breaker, True)


@given(st.lists(st.tuples(st.integers(0, 60), st.sampled_from("ab"), st.floats(0, 2000)), max_size=60))
def test_never_more_than_the_limit_in_any_window(asked: list[tuple[int, str, float]]) -> None:
    breaker, now, passed = Breaker(), 0.0, []
    for node, cause, wait in asked:
        now += wait
        known = any(d.node == f"n{node}" and now - d.time < LIMITS.window_s for d in breaker.drains)
        breaker, ok = breaker.ask(now, f"n{node}", cause, 60, 0, LIMITS)
        if ok and not known:
            passed.append(now)
    for end in passed:
        assert sum(end - LIMITS.window_s < t <= end for t in passed) <= 3  # 5 % of 60, of one cause 2


def test_limits_make_sense() -> None:
    with pytest.raises(ValueError, match="do not fall"):
        Limits(same_cause=0.5, drained=0.1)
