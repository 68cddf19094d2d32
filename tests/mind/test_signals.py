"""What counts as silence, and for how long."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepvideo.mind.signals import NodeView, Observation, Pulse, Signal, Tolerance, reading


def learnt(name: str = "progress", gap_s: float = 1.0, count: int = 20, **tolerance: float) -> Signal:
    signal = Signal(name, Tolerance(**tolerance))
    for _ in range(count):
        signal.beat(True, gap_s)
    return signal


def test_the_limit_follows_the_steps_and_the_pauses_that_were_seen() -> None:
    assert learnt().limit_s == 15  # the floor
    assert learnt(gap_s=30).limit_s == 150  # five steps
    signal = learnt()
    for _ in range(40):
        signal.beat(False, 1.0)
    assert signal.ceased
    signal.beat(True, 1.0)  # it was a checkpoint
    assert not signal.ceased and signal.limit_s == pytest.approx(1.5 * 41)


def test_the_start_of_an_attempt_is_no_gap() -> None:
    signal = learnt()
    signal.restarted()
    signal.beat(False, 300.0)
    signal.beat(True, 1.0)
    assert signal.limit_s == 15


def test_a_gauge_without_a_usual_level_is_a_sign_of_life_but_none_of_death() -> None:
    signal = Signal("storage", Tolerance())
    for _ in range(20):
        signal.gauge(0.0, 1.0, progressed=True)
    assert signal.pulse == Pulse.UNKNOWN and signal.level is None
    signal.gauge(5e6, 1.0, progressed=False)
    assert signal.pulse == Pulse.ALIVE
    signal.gauge(0.0, 1.0, progressed=False)
    assert signal.pulse == Pulse.UNKNOWN


def test_the_power_of_a_gpu_tells_nothing_before_its_usual_level_is_known() -> None:
    signal = Signal("compute", Tolerance())
    signal.gauge(90.0, 1.0, progressed=True)
    assert signal.pulse == Pulse.UNKNOWN and not signal.lively


def test_gpus_that_wait_for_others_draw_power_and_are_silent() -> None:
    signal = Signal("compute", Tolerance())
    for _ in range(20):
        signal.gauge(600.0, 1.0, progressed=True)
    signal.gauge(130.0, 1.0, progressed=False)
    assert signal.pulse == Pulse.SILENT
    signal.gauge(None, 1.0, progressed=False)
    assert signal.pulse == Pulse.UNKNOWN
    signal.gauge(450.0, 1.0, progressed=False)
    assert signal.pulse == Pulse.ALIVE and signal.silent_s == 0


def test_the_busiest_node_speaks_for_the_job() -> None:
    given = (("a", 10.0), ("b", 600.0), ("c", None))
    views = {n: NodeView(n, age_s=1.0, gauges={"compute": v}) for n, v in given}
    assert reading(Observation(0, 0, nodes=views), "compute") == 600
    assert reading(Observation(0, 0, nodes=views), "compute", newest_s=0.5) is None
    assert reading(Observation(0, 0, nodes={"c": views["c"]}), "compute") is None


@given(st.lists(st.floats(0.01, 100), min_size=6, max_size=60))
def test_a_gap_as_long_as_one_that_was_survived_never_ceases(gaps: list[float]) -> None:
    signal = Signal("progress", Tolerance())
    signal.beat(True, 1.0)
    for gap in gaps:
        signal.beat(True, gap)
    signal.beat(False, max(gaps))
    assert not signal.ceased
    signal.beat(False, 1000)
    assert signal.ceased == (signal.silent_s >= signal.limit_s)


def test_a_tolerance_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="floor_s is 0; give more than 0"):
        Tolerance(floor_s=0)
