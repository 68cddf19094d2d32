"""A simulated month: the same code decides as on a cluster, and the figures add up."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from stepvideo.cli import main
from stepvideo.mind.decide import Action, Mind
from stepvideo.mind.nodes import State
from stepvideo.mind.simulate.assumptions import GPU_DAYS, HARDWARE, PROGRAM, Month
from stepvideo.mind.simulate.compare import NAIVE, OURS, Compared, interval
from stepvideo.mind.simulate.fleet import Fleet
from stepvideo.mind.simulate.history import NOISE, Happening, Shows, draw
from stepvideo.mind.simulate.month import Outcome, run
from stepvideo.mind.simulate.policies import OneSignal, Waits
from stepvideo.mind.simulate.scene import answer

SMALL = Month(gpus=256, days=5, spares=2, times=60)


def test_rates_are_those_of_the_report() -> None:
    month = Month()
    assert month.a_day(HARDWARE) / month.gpus * 1000 == pytest.approx(0.037)
    assert GPU_DAYS == pytest.approx(189_189, rel=1e-3)
    drawn = [h for seed in range(60) for h in draw(replace(month, noise=0), seed)]
    program = sum(h.node is None for h in drawn) / 60
    assert program == pytest.approx(month.a_day(PROGRAM) * month.days, rel=0.15)
    in_job = [h for h in drawn if h.node is not None and h.node < month.nodes and h.shows != Shows.DEGRADES]
    assert len(in_job) / 60 == pytest.approx(month.a_day(HARDWARE) * month.days, rel=0.2)


def test_every_happening_gets_its_decision() -> None:
    month = Month()

    def asked(shows: Shows, fault: str = "GPU_DBE_ERROR", lasts_s: float = 0.0, policy=Mind):
        mind = policy()
        for i in range(10):  # it has learnt what is usual
            answer(mind, Happening(1e4 + 400 * i, "", Shows.VALIDATES, lasts_s=10), month, "0")
        return answer(mind, Happening(1e5, fault, shows, 0, lasts_s=lasts_s), month, "0")

    dead = asked(Shows.DEAD, "NODE_SHUTDOWN")
    assert dead.decision and (dead.decision.action, dead.decision.dead) == (Action.RESTART, ("0",))
    told = asked(Shows.REPORTED)
    assert told.decision and (told.decision.fault, told.decision.nodes) == ("GPU_DBE_ERROR", ("0",))
    stands = asked(Shows.STANDS)
    assert stands.decision and (stands.decision.fault, stands.decision.nodes) == ("HANG", ())
    assert told.after_s < stands.after_s < 300
    slow = asked(Shows.DEGRADES, "NON_FATAL")
    assert slow.decision and slow.decision.nodes == ("0",) and "a checkpoint was saved since" in slow.decision.reasons
    for shows in NOISE:
        assert asked(shows, "", 250).decision is None, shows
    naive = {shows: asked(shows, "", 250, OneSignal).decision is not None for shows in NOISE}
    assert all(naive.values()), naive
    assert asked(Shows.DEAD, policy=Waits).after_s > 300
    assert asked(Shows.STANDS, policy=Waits).after_s == pytest.approx(600, abs=30)


@pytest.mark.parametrize("shows", [Shows.DEAD, Shows.REPORTED, Shows.STANDS])
def test_eight_nodes_stand_for_all(shows: Shows) -> None:
    month, happening = Month(), Happening(1e5, "LINK_DOWN", shows, 0)
    few, many = (answer(Mind(), happening, month, "0", nodes) for nodes in (8, 128))
    assert few.decision and many.decision and few.after_s == many.after_s
    assert (few.decision.action, few.decision.nodes) == (many.decision.action, many.decision.nodes)


def test_time_adds_up_and_a_seed_repeats() -> None:
    once = run(SMALL, 3, "stepmind")
    assert once == run(SMALL, 3, "stepmind") and once != run(SMALL, 4, "stepmind")
    assert once.restarts.total() > 5 and 0 < once.productive <= once.effective < 1
    spent = once.lost_s + once.detecting_s + once.down_s + once.holding_s
    assert once.effective == pytest.approx(1 - spent / SMALL.seconds)
    assert once.false == 0
    quiet = run(replace(SMALL, times=1e-9, noise=0), 0, "stepmind")
    assert not quiet.restarts and quiet.effective == 1.0


def test_a_defect_is_not_let_back_unless_tests_miss_it() -> None:
    calls: list = []
    fleet = Fleet(replace(SMALL, missed=0.0, mended=0.0), 0, True, lambda t, c: calls.append((t, c)), lambda t: None)
    fleet.defects[5] = "GPU_DBE_ERROR"
    assert fleet.remove(5, "GPU_DBE_ERROR", 0.0, dead=False) and fleet.lacking == 1
    assert len(fleet.fill(0.0)) == 1 and fleet.lacking == 0
    while calls and 5 in fleet.defects:
        time, call = calls.pop(0)
        call(time)
        assert 5 not in fleet.defects or fleet.records[5].state not in (State.IN_SERVICE, State.BUFFER)
    assert fleet.records[5].state != State.IN_SERVICE  # only people mended it, and it is tested again


def test_the_circuit_breaker_is_asked() -> None:
    fleet = Fleet(SMALL, 0, True, lambda t, c: None, lambda t: None)
    said = [fleet.remove(node, "LINK_DOWN", 60.0 * node, dead=False) for node in range(4)]
    assert said[0] and not all(said) and fleet.refused


def test_interval_and_bars() -> None:
    found = interval([1.0, 2.0, 3.0])
    assert (found.value, round(found.high - 2, 3)) == (2.0, 2.484)  # t(.975, 2) / sqrt(3)
    with pytest.raises(ValueError, match="2 months"):
        interval([1.0])
    month = replace(SMALL, times=1.0, days=1)
    poor = [Outcome("any", seed, month.seconds, lost_s=0.1 * month.seconds + seed) for seed in range(3)]
    said = Compared(month, {OURS: poor, NAIVE: poor}).missed()
    assert len(said) == 2 and "90.00" in said[0] and "gain" in said[1]
    better = [replace(o, lost_s=float(o.seed)) for o in poor]
    assert not Compared(month, {OURS: better, NAIVE: poor}).missed()


def test_command(capsys: pytest.CaptureFixture[str]) -> None:
    few = ["mind", "month", "--gpus", "256", "--days", "2", "--months", "2", "--times", "5"]
    assert main([*few, "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert [row["policy"] for row in said["rates"][0]["policies"]] == ["stepmind", "one signal", "waits"]
    assert main(few) == 0 and "gain over" in capsys.readouterr().out
    assert main(["mind", "month", "--gpus", "100"]) == 2
    assert "multiple of 8" in capsys.readouterr().err
