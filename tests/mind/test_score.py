"""The score of a node: what raises it, what lowers it, and that selecting by it helps."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepvideo.mind.faults import Category
from stepvideo.mind.nodes import Entry, Kind, Record, State, first_seen
from stepvideo.mind.repair import Policy
from stepvideo.mind.score import DAY, Evidence, Prior, Scoring, evidence, fit, score, survival

NOW = 100 * DAY
days = st.floats(0, 100)


@st.composite
def records(draw: st.DrawFn) -> Record:
    record = first_seen("node", "", draw(days) * DAY)
    for at in draw(st.lists(days, max_size=6)):
        weight, category = draw(st.sampled_from([0.5, 1.0])), draw(st.sampled_from([Category.GPU, Category.HOST]))
        record = record.with_entry(Entry(at * DAY, Kind.ALERT, "x", False, weight, category=category))
    return record


@given(records(), days)
def test_a_fault_lowers_it_and_the_more_the_newer_it_is(record: Record, at: float) -> None:
    alert = Entry(at * DAY, Kind.ALERT, "x", False, 1.0, category=Category.GPU)
    older = replace(alert, time=alert.time - 30 * DAY)
    worse, worst = score(record.with_entry(older), NOW), score(record.with_entry(alert), NOW)
    assert 0 < worst <= worse < score(record, NOW) < 1
    assert score(record.with_entry(replace(alert, weight=0.0)), NOW) == score(record, NOW)


@given(records(), st.floats(1, 200))
def test_time_in_service_without_a_fault_raises_it(record: Record, later: float) -> None:
    assert score(record, NOW + later * DAY) > score(record, NOW)


@given(records(), st.floats(60, 1e5), st.floats(60, 1e5))
def test_tests_that_pass_raise_it_by_their_duration_and_a_failed_one_lowers_it(
    record: Record, short: float, more: float
) -> None:
    test = Entry(NOW, Kind.STRESS, "stress", seconds=short)
    longer = replace(test, seconds=short + more)
    failed = replace(test, ok=False)
    values = [score(record.with_entry(*e), NOW) for e in ((failed,), (), (test,), (longer,))]
    assert values == sorted(values) and values[0] < values[1] < values[3]


@given(records())
def test_a_replaced_part_is_forgiven_most_of_what_it_cost_and_no_other(record: Record) -> None:
    def repaired(how: str, category: Category) -> float:
        return score(record.with_entry(Entry(NOW, Kind.REPAIR, how, category=category)), NOW)

    assert repaired("reboot", Category.GPU) == score(record, NOW)
    assert repaired("replace", Category.NETWORK) == score(record, NOW)  # it had no fault
    guilty = any(e.category == Category.GPU for e in record.history)
    assert (repaired("replace", Category.GPU) > score(record, NOW)) == guilty


@given(records())
def test_a_fault_that_a_reboot_mended_counts_less_once_a_stress_test_says_so(record: Record) -> None:
    rebooted = record.with_entry(Entry(NOW, Kind.REPAIR, "reboot"))
    tested = rebooted.with_entry(Entry(NOW, Kind.STRESS, "stress"))
    assert score(rebooted, NOW) == score(record, NOW)
    faulty = any(e.kind == Kind.ALERT for e in record.history)
    assert (score(tested, NOW) > score(record, NOW)) == faulty


def test_one_fault_does_not_end_a_new_nodes_service_and_its_return_does() -> None:
    record, values = first_seen("node", "", 0.0), []
    for day in (0, 1):
        for entry in (Entry(day * DAY, Kind.ALERT, "x", False, 1.0), Entry(day * DAY, Kind.REPAIR, "reboot")):
            record = record.with_entry(entry)
        record = record.with_entry(Entry(day * DAY, Kind.STRESS, "stress", seconds=60))
        values.append(score(record, day * DAY))
    assert values[0] > Policy().least_score > values[1]


def test_a_new_node_has_the_reports_average_and_what_comes_later_does_not_count() -> None:
    record = first_seen("node", "", NOW)
    assert score(record, NOW) == pytest.approx(1 - 0.07, abs=1e-3)
    future = Entry(NOW + 1, Kind.ALERT, "x", False, 1.0)
    assert score(record.with_entry(future), NOW) == score(record, NOW)


def test_only_days_in_service_count() -> None:
    record = first_seen("node", "", 0.0).into(State.BUFFER, 10 * DAY).into(State.IN_SERVICE, 90 * DAY)
    found = evidence(record, NOW, Scoring(half_life=1e9))
    assert found.days == pytest.approx(20) and found.failures == 0


def test_the_prior_is_found_from_a_fleet() -> None:
    """Rates drawn from a known Gamma; n of each is Poisson."""
    draw, truth = random.Random(0), Prior(0.2, 40.0)
    fleet = []
    for _ in range(600):
        rate, exposure = draw.gammavariate(truth.shape, 1 / truth.days), draw.uniform(50, 300)
        fleet.append(Evidence(float(_poisson(draw, rate * exposure)), exposure))
    found = fit(fleet)
    assert found.shape == pytest.approx(truth.shape, rel=0.25)
    seen = sum(e.failures for e in fleet) / sum(e.days for e in fleet)
    assert found.shape / found.days == pytest.approx(seen, rel=0.1)
    assert fit(fleet[:3], least=1e9) == Prior()


def test_nodes_chosen_by_score_fail_less() -> None:
    """7.0 % of nodes a month at first, as in the report; after two months of seeing them the best half."""
    draw, scoring = random.Random(1), Scoring(half_life=1e9)
    nodes = []
    for _ in range(4000):
        rate = draw.gammavariate(scoring.prior.shape, 1 / scoring.prior.days)
        seen = Evidence(float(_poisson(draw, rate * 60)), 60.0)
        nodes.append((survival(seen, scoring), _poisson(draw, rate * 30) > 0))
    average = sum(fails for _, fails in nodes) / len(nodes)
    chosen = sorted(nodes, key=lambda n: -n[0])[: len(nodes) // 2]
    selected = sum(fails for _, fails in chosen) / len(chosen)
    promised = 1 - sum(value for value, _ in chosen) / len(chosen)
    assert 0.05 < average < 0.09 and selected < average / 3
    assert selected == pytest.approx(promised, abs=0.01)


def _poisson(draw: random.Random, mean: float) -> int:
    """Arrivals within `mean` of a clock of rate 1."""
    count, clock = 0, draw.expovariate(1.0)
    while clock < mean:
        count, clock = count + 1, clock + draw.expovariate(1.0)
    return count
