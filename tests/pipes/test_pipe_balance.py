"""Nodes follow the pipe: towards the side that is waited for, once, and not back and forth."""

from __future__ import annotations

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from stepvideo.pipes.balance import Limits, Load, Pressure, decide, predicted_rate, wanted_move
from stepvideo.pipes.metrics import Flow, Latency, Rates, verdict

nodes = st.integers(1, 64)
speeds = st.floats(0.1, 100)


def measured(inference: int, training: int, produce: float, consume: float) -> Load:
    """What a pipe would say between so many nodes that make `produce` and use `consume` items a second each."""
    able, wanted = inference * produce, training * consume
    rate = min(able, wanted)
    return Load(rate, blocked=1 - rate / able, starved=1 - rate / wanted)


@given(nodes, nodes, speeds, speeds, st.integers(1, 4), st.integers(1, 64))
def test_a_move_helps_keeps_the_limits_and_is_the_last(
    i: int, t: int, p: float, c: float, unit: int, most: int
) -> None:
    assume(max(i * p, t * c) < 900 * min(i * p, t * c))
    limits, load = Limits(unit=unit, max_move=most), measured(i, t, p, c)
    move = wanted_move(load, i, t, limits)
    assert move % unit == 0 and abs(move) <= most and i + move >= 1 and t - move >= 1
    before, after = load.rate, min((i + move) * p, (t - move) * c)
    assert predicted_rate(load, i, t, move) == pytest.approx(after, rel=1e-6)
    if move == 0:
        return
    assert (move > 0) == (i * p < t * c), "nodes go to the side that is waited for"
    assert after >= before * (1 + limits.min_gain) * (1 - 1e-9)
    again = wanted_move(measured(i + move, t - move, p, c), i + move, t - move, limits)
    assert again * move >= 0, "never back"
    if abs(move) + unit <= most:
        assert again == 0, "one move is enough"


@given(nodes, nodes, speeds, st.floats(0.97, 1.03))
def test_balanced_sides_are_left_alone(i: int, t: int, rate: float, off: float) -> None:
    assert wanted_move(measured(i, t, rate / i, off * rate / t), i, t) == 0


def test_the_report_s_case() -> None:
    load = measured(8, 8, produce=1.0, consume=3.0)  # training waits two thirds of its time
    assert load.starved == pytest.approx(2 / 3)
    assert wanted_move(load, 8, 8) == 4
    assert predicted_rate(load, 8, 8, 4) == pytest.approx(12)
    assert wanted_move(load, 8, 8, Limits(unit=3)) == 3
    assert wanted_move(load, 8, 8, Limits(min_training=7)) == 1
    assert wanted_move(measured(8, 8, 3.0, 1.0), 8, 8) == -4


def test_nothing_moves_when_both_wait_or_nothing_flows() -> None:
    assert wanted_move(Load(5.0, 0.5, 0.5), 4, 4) == 0
    assert wanted_move(Load(0.0, 0.0, 1.0), 4, 4) == 0
    with pytest.raises(ValueError, match="needs one"):
        wanted_move(Load(1.0, 0.0, 0.0), 0, 4)
    for wrong in ((-1.0, 0.0, 0.0), (1.0, 1.5, 0.0), (1.0, 0.0, float("nan"))):
        with pytest.raises(ValueError):
            Load(*wrong)


def test_a_move_is_made_when_it_was_wanted_three_times_in_a_row() -> None:
    hungry, even = measured(4, 4, 1.0, 3.0), measured(4, 4, 1.0, 1.0)
    pressure, moves = Pressure(), []
    for load in (hungry, hungry, even, hungry, hungry, hungry, hungry):
        pressure, move = decide(pressure, load, 4, 4)
        moves.append(move)
    assert moves == [0, 0, 0, 0, 0, 2, 0]


def test_a_load_is_that_of_the_slowest_job() -> None:
    def flow(job: str, rate: float, blocked: float, starved: float) -> Flow:
        return Flow("p", job, 2, 4, 0, 0, 0, 0, 0, rate, rate, 0.0, blocked, starved, "")

    assert Load.of([flow("a", 5, 0.3, 0.0), flow("b", 5, 0.0, 0.4)]) == Load(5, 0.3, 0.0)
    assert Load.of([]) == Load(0, 0, 0)


def test_verdicts_histograms_and_rates() -> None:
    assert [verdict(b, s) for b, s in ((0, 0), (0.5, 0), (0, 0.5), (0.5, 0.5))] == [
        "nobody waits",
        "producers wait for training",
        "training waits for producers",
        "both wait: the network, or bursts",
    ]
    latency, rates = Latency(), Rates()
    for ms in range(1, 101):
        latency.add(ms / 1000)
    assert latency.summary()["mean"] == pytest.approx(0.0505)
    for share in (0.5, 0.9, 0.99):
        assert share / 10 <= latency.percentile(share) <= share / 10 * 1.2
    assert Latency().summary() == {"mean": 0.0, "p50": 0.0, "p90": 0.0, "p99": 0.0}
    assert rates.update(100.0, {"n": 0}) == {"n_per_s": 0.0}
    assert rates.update(102.0, {"n": 10}) == {"n_per_s": 5.0}
    for t in range(103, 130):
        found = rates.update(float(t), {"n": 10})
    assert found == {"n_per_s": 0.0}, "what is long ago is forgotten"
