"""The closed form of pipeline schedules against the same schedules played pass by pass; what cannot run is refused."""

from __future__ import annotations

import json

import numpy as np
import pytest

from stepvideo.emulator import timeline
from stepvideo.emulator.events import Pass, orders, play, simulate, total
from stepvideo.emulator.plan_memory import in_flight
from stepvideo.emulator.schedule import check, pipeline_time, unequal_time, valid
from stepvideo.errors import ConfigError


def schedules(count: int, seed: int = 0):
    """Random valid (pipeline, virtual, micro_batches) of up to 8 stages, 6 chunks, 4 rounds."""
    rng = np.random.default_rng(seed)
    for _ in range(count):
        p = int(rng.integers(1, 9))
        v = int(rng.integers(1, 7)) if p > 1 else 1
        m = p * int(rng.integers(1, 5)) if v > 1 else int(rng.integers(1, 4 * p + 1))
        yield p, v, m, rng


def test_closed_form_equals_the_events_of_250_random_schedules():
    for p, v, m, rng in schedules(250):
        forward, backward, exchange = rng.uniform(0.1, 1), rng.uniform(0.1, 3), rng.choice([0.0, rng.uniform(0, 0.2)])
        played = total(simulate(forward, backward, p, v, m, exchange))
        assert pipeline_time(forward, backward, p, v, m, exchange) == pytest.approx(played, rel=1e-9), (p, v, m)


def test_closed_form_equals_the_events_of_stages_that_differ():
    for p, _, m, rng in schedules(150, seed=1):
        forward, backward = rng.uniform(0.1, 1, p), rng.uniform(0.1, 3, p)
        forward[-1], backward[-1] = forward.max(), backward.max()
        played = total(simulate(list(forward), list(backward), p, 1, m))
        assert unequal_time(forward, backward, m) == pytest.approx(played, rel=1e-9), (p, m)


def test_a_slow_stage_that_is_not_the_last_has_no_closed_form():
    with pytest.raises(ConfigError, match=r"stage 1 takes longer than the last.*simulate"):
        unequal_time([1, 2, 1], [2, 2, 2], 6)


def test_every_stage_keeps_as_many_micro_batches_as_its_memory_is_counted_for():
    for p, v, m, _ in schedules(40, seed=2):
        for stage, passes in enumerate(orders(p, v, m)):
            alive = most = 0
            for work in passes:
                alive += -1 if work.backward else 1
                most = max(most, alive)
            assert most / v == pytest.approx(float(in_flight(p, v, m, stage))), (p, v, m, stage)


def test_arrays_of_plans_broadcast_and_what_cannot_run_takes_for_ever():
    seconds = pipeline_time(1.0, 2.0, np.array([1, 2, 4])[:, None], np.array([[1, 2]]), np.array([[2, 8]]))
    assert seconds == pytest.approx(np.array([[6, np.inf], [9, 25.5], [15, 28.5]]))


@pytest.mark.parametrize(
    ("p", "v", "m", "said"),
    [
        (4, 2, 6, "give 4 or 8"),
        (4, 2, 3, "give 4$"),
        (1, 2, 4, "nothing to interleave"),
        (0, 1, 4, "pipeline=0: give 1 or more"),
    ],
)
def test_schedules_that_cannot_run_are_refused_with_the_fix(p, v, m, said):
    assert not valid(p, v, m)
    with pytest.raises(ConfigError, match=said):
        check(p, v, m)
    with pytest.raises(ConfigError, match=said):
        simulate(1, 2, p, v, m)


def test_a_deadlock_names_what_waits():
    """Megatron's order with an incomplete last group, which `check` refuses: played, it never ends."""
    with pytest.raises(ConfigError, match=r"deadlock.*: backward of micro-batch 4 through chunk 1 of stage 0; "):
        play(orders(4, 2, 6), {False: [1.0] * 4, True: [2.0] * 4}, 2)


@pytest.mark.parametrize("times", [{"forward_s": [1, 2, 3]}, {"backward_s": -1.0}, {"p2p_s": -0.1}])
def test_times_that_are_none_are_refused(times):
    with pytest.raises(ConfigError, match="give"):
        simulate(
            **({"forward_s": 1.0, "backward_s": 2.0, "p2p_s": 0.0} | times), pipeline=2, virtual=1, micro_batches=2
        )


def test_a_hidden_exchange_costs_at_most_what_an_open_one_does():
    for p, v, m, rng in schedules(40, seed=3):
        seconds = rng.uniform(0, 0.2)
        hidden, open_, none = (
            total(simulate(1, 2, p, v, m, **k)) for k in ({"hidden_s": seconds}, {"p2p_s": seconds}, {})
        )
        assert none - 1e-9 <= hidden <= open_ + 1e-9


def test_passes_do_not_overlap_on_a_stage_and_follow_what_they_read():
    events = simulate(1, 2, 4, 3, 8, 0.1)
    at = {e.work: e for e in events}
    for stage in range(4):
        own = sorted((e for e in events if e.work.stage == stage), key=lambda e: e.start)
        assert len(own) == 2 * 3 * 8
        assert all(a.end <= b.start + 1e-12 for a, b in zip(own, own[1:]))
    assert at[Pass(1, 0, 0)].start >= at[Pass(0, 0, 0)].end
    assert at[Pass(0, 1, 5)].start >= at[Pass(3, 0, 5)].end
    assert at[Pass(3, 1, 5, True)].start >= at[Pass(0, 2, 5, True)].end


def test_a_timeline_is_drawn_with_every_pass(tmp_path):
    events = simulate(1, 2, 3, 2, 6)
    for ending in ("svg", "html", "json"):
        timeline.write(events, tmp_path / f"t.{ending}", "three stages")
    assert (tmp_path / "t.svg").read_text().count('class="box') == len(events) == 3 * 2 * 6 * 2
    assert "micro-batch 5 through chunk 1 of stage 2" in (tmp_path / "t.html").read_text()
    drawn = [r for r in json.loads((tmp_path / "t.json").read_text())["traceEvents"] if r["ph"] == "X"]
    assert len(drawn) == len(events)
    assert max(r["ts"] + r["dur"] for r in drawn) == pytest.approx(1e6 * total(events))
    with pytest.raises(ConfigError, match=r"\.svg, \.html, \.json"):
        timeline.write(events, tmp_path / "t.png", "")
