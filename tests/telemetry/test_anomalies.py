"""Anomalies in made steps: those put in are found, where they are, soon; healthy ones are left alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from made_training import Fault, Made, durations, samples, spans, write
from numpy.typing import NDArray

from stepvideo.telemetry.anomalies import Anomaly, Bars, Watch
from stepvideo.telemetry.findings import findings
from stepvideo.telemetry.live import Follower
from stepvideo.telemetry.places import Layout
from stepvideo.telemetry.progress import Progress
from stepvideo.telemetry.sequential import Detector, Growth, Relative, log_multinomial, log_threshold, top_of
from stepvideo.telemetry.views import open_views

Array = NDArray[np.float64]


def steps_of(made: Made) -> Iterator[tuple[int, dict[str, Array]]]:
    found = {"/".join(reversed(n.split("/"))): v / 1e3 for n, v in durations(made).items()}
    for i in range(made.steps):
        yield made.first + i, {name: v[i] for name, v in found.items()}


def layout_of(made: Made) -> Layout:
    return Layout({r: made.node(r) for r in range(made.ranks)}, made.tensor)


def watched(made: Made, bars: Bars | None = None) -> list[tuple[int, Anomaly]]:
    watch = Watch(layout_of(made), bars)
    return [(step, a) for step, seconds in steps_of(made) for a in watch.step(step, seconds)]


# ------------------------------------------------------------------------------------------------------- sequential


@pytest.mark.parametrize("noise", ["normal", "cauchy", "common"])
def test_false_alarms_keep_the_bound_whatever_the_noise(noise: str) -> None:
    """P(alarm within T steps) ≤ T / c for every unit, with the worst healthy slowness that the margin allows."""
    draw, units, steps, bound = np.random.default_rng(0), 256, 300, 0.1
    log_c, alarmed = math.log(steps / bound), 0
    for _ in range(3):
        test = Relative(units, margin=0.03)
        ever = np.zeros(units, bool)
        for t in range(steps):
            log = draw.standard_cauchy(units) if noise == "cauchy" else draw.standard_normal(units)
            times = np.exp(0.1 * np.clip(log, -50, 50)) * (1 + 9 * (noise == "common" and t % 7 == 0))
            times[0] *= 1.03
            test.update(t, times)
            ever |= test.detector.level >= log_c
        alarmed += int(ever.sum())
    assert 0 < alarmed + 1 <= bound * 3 * units


def test_a_bet_is_fair() -> None:
    for units in (2, 3, 4, 7, 1024):
        p, test = top_of(units) / units, Detector(2)
        test.update(1, np.array([True, False]), p, np.array([True, True]))
        assert p * math.exp(test.level[0]) + (1 - p) * math.exp(test.level[1]) == pytest.approx(1)


def test_growth_is_seen_and_constant_memory() -> None:
    draw = np.random.default_rng(1)
    growth, alarm = Growth(0.03), log_threshold(1, 1000, 1e-3)
    for t in range(1, 401):
        growth.update(t, math.exp(0.02 * draw.standard_normal()))
        assert growth.level < alarm
    for t in range(401, 431):
        growth.update(t, 1.12 * math.exp(0.02 * draw.standard_normal()))
        if growth.level >= alarm:
            break
    assert growth.level >= alarm and 395 <= growth.since <= 405
    for t in range(5000):
        growth.update(t, 1.0)
    assert len(growth.past) < Growth.KEPT


def test_multinomial_e_values() -> None:
    draw, shares = np.random.default_rng(2), np.array([0.5, 0.3, 0.2])
    healthy = [log_multinomial(draw.multinomial(500, shares), shares) for _ in range(300)]
    assert np.mean(np.array(healthy) >= math.log(20)) <= 0.05
    assert log_multinomial(np.array([150, 200, 150]), shares) > math.log(1e6)
    assert log_multinomial(np.array([10, 1]), np.array([1.0, 0.0])) == math.inf


# ------------------------------------------------------------------------------------------------------------- ranks

FAULTS: list[tuple[Made, str, tuple[int, ...]]] = [
    (Made(64, faults=(Fault((17,), 1.15, since=21),)), "rank", (17,)),
    (Made(16, faults=(Fault((3,), 1.15, since=21),), tail=3), "rank", (3,)),  # heavy tails
    (Made(4, per_node=1, faults=(Fault((2,), 1.15, since=21),)), "rank", (2,)),
    (Made(2, per_node=1, faults=(Fault((1,), 1.2, since=21),)), "rank", (1,)),
    (Made(64, faults=(Fault(tuple(range(16, 24)), 1.15, since=21),)), "node", tuple(range(16, 24))),
    (Made(64, tensor=4, faults=(Fault((17,), 1.15, "backward", since=21),)), "group", (16, 17, 18, 19)),
    (Made(64, tensor=4, exchanges=True, faults=(Fault((17,), 1.15, "backward", since=21),)), "rank", (17,)),
    (Made(64, tensor=8, faults=(Fault((17,), 1.2, "backward", since=21),)), "node", tuple(range(16, 24))),
    (Made(16, faults=(Fault((5,), 20.0, "data_wait", since=21),)), "rank", (5,)),
]


@pytest.mark.parametrize(("made", "kind", "ranks"), FAULTS, ids=lambda v: str(v) if isinstance(v, str) else "")
def test_an_injected_fault_is_found_within_50_steps(made: Made, kind: str, ranks: tuple[int, ...]) -> None:
    found = watched(replace(made, steps=90))
    assert [(a.kind, a.where.ranks) for _, a in found] == [(f"slow_{kind}", ranks)]
    when, anomaly = found[0]
    assert 21 < when <= 21 + 50
    assert abs(anomaly.since_step - 21) <= 12
    assert anomaly.evidence["section"].startswith(made.faults[0].section)
    assert anomaly.where.nodes == tuple(sorted({made.node(r) for r in ranks}))
    assert "data" not in anomaly.suggestion or made.faults[0].section == "data_wait"


def _with(change: Callable[[int, dict[str, Array], np.random.Generator], None]) -> Callable[[int], Iterator]:
    def steps(seed: int) -> Iterator[tuple[int, dict[str, Array]]]:
        draw = np.random.default_rng(seed)
        mean = np.array([2.0, 100, 200, 20])
        for step in range(1, 1001):
            given = mean[:, None] * np.exp(0.03 * draw.standard_normal((4, 24)))
            seconds = dict(zip(("data_wait", "forward", "backward", "optimizer"), given / 1e3))
            change(step, seconds, draw)
            yield step, seconds

    return steps


def _tails(step: int, seconds: dict[str, Array], draw: np.random.Generator) -> None:
    for values in seconds.values():
        values *= np.exp(0.03 * draw.standard_t(2, 24).clip(-100, 100))


def _common(step: int, seconds: dict[str, Array], draw: np.random.Generator) -> None:
    """Checkpoints, a slow file system, large buckets: everybody at once."""
    factor = 1 + 4 * (step % 50 == 0) + draw.integers(0, 3)
    for values in seconds.values():
        values *= factor


def _uneven(step: int, seconds: dict[str, Array], draw: np.random.Generator) -> None:
    """Each rank has a bucket of its own every step, machines differ by up to 2 %, and rank 0 logs."""
    seconds["forward"] *= draw.choice([1.0, 1.3, 2.0], 24) * np.linspace(0.99, 1.01, 24)
    seconds["backward"] *= np.linspace(0.99, 1.01, 24)
    seconds["optimizer"][0] *= 1 + 5 * (step % 10 == 0)


def _bursts(step: int, seconds: dict[str, Array], draw: np.random.Generator) -> None:
    """A rank is held up for four steps, now this one, now that one."""
    seconds["forward"][(step // 4 * 7) % 24] *= 1.5


HEALTHY = [_with(change) for change in (_tails, _common, _uneven, _bursts)]


@pytest.mark.parametrize("steps", HEALTHY, ids=("tails", "common", "uneven", "bursts"))
def test_no_false_alarm_in_1000_healthy_steps(steps: Callable[[int], Iterator]) -> None:
    watch = Watch(Layout({r: f"n{r // 8}" for r in range(24)}))
    assert [a for step, seconds in steps(0) for a in watch.step(step, seconds)] == []


@pytest.mark.soak
@pytest.mark.parametrize("steps", HEALTHY, ids=("tails", "common", "uneven", "bursts"))
def test_no_false_alarm_with_many_seeds(steps: Callable[[int], Iterator]) -> None:
    for seed in range(1, 31):
        watch = Watch(Layout({r: f"n{r // 8}" for r in range(24)}, tensor=4))
        assert [a for step, seconds in steps(seed) for a in watch.step(step, seconds)] == [], seed


def test_who_recovers_and_falls_back_is_told_again_and_silence_once() -> None:
    made = Made(16, 300, faults=(Fault((3,), 1.3, since=21, until=80), Fault((3,), 1.3, since=200)))
    watch, found = Watch(layout_of(made)), []
    for step, seconds in steps_of(made):
        if step >= 120:
            seconds = {name: np.where(np.arange(16) == 9, np.nan, v) for name, v in seconds.items()}
        found += [(step, a.kind, a.where.ranks) for a in watch.step(step, seconds)]
    assert [(k, r) for _, k, r in found] == [("slow_rank", (3,)), ("silent_rank", (9,)), ("slow_rank", (3,))]
    assert found[1][0] == 139 and found[2][0] > 200


def test_times_of_other_ranks_than_the_layouts_are_refused() -> None:
    with pytest.raises(ValueError, match="3 times for 2 ranks"):
        Watch(Layout({0: "a", 1: "b"})).step(1, {"forward": [1.0, 2, 3]})


# --------------------------------------------------------------------------------------------------------- the job


def progressed(made: Made, change: Callable[[int, dict[str, Array]], float] = lambda s, v: 0.0) -> list[Anomaly]:
    progress, found = Progress(layout_of(made)), []
    for step, seconds in steps_of(made):
        predicted = change(step, seconds)
        found += progress.step(step, seconds, predicted)
    return found


def test_a_regression_is_told_once_with_where_it_began_and_what_grew() -> None:
    found = progressed(Made(8, 300, faults=(Fault(tuple(range(8)), 1.1, "backward", since=151),)))
    assert [a.kind for a in found] == ["throughput_regression"]
    assert 145 <= found[0].since_step <= 155
    assert found[0].evidence["section"] == "backward"
    assert found[0].evidence["slower"] == pytest.approx(20 / 345, abs=0.02)


def test_larger_buckets_are_no_regression_where_they_are_predicted() -> None:
    def large(step: int, seconds: dict[str, Array]) -> float:
        factor = 2.0 if step > 150 and step % 2 else 1.0
        for values in seconds.values():
            values *= factor
        return 0.4 * factor

    assert progressed(Made(8, 300), large) == []


def test_starvation_and_slower_than_predicted() -> None:
    fault = Fault(tuple(range(8)), 30.0, "data_wait", since=101)
    found = {a.kind: a for a in progressed(Made(8, 250, faults=(fault,)), lambda *_: 0.3)}
    assert found["data_starvation"].evidence["share_of_step"] > 0.1
    assert found["data_starvation"].since_step == 101
    assert "below_prediction" in found


def test_pauses_are_told_apart() -> None:
    def pauses(step: int, seconds: dict[str, Array]) -> float:
        if step in (60, 120):
            seconds["checkpoint"] = np.full(8, 3.0)
            seconds["step"] = seconds["step"] + 3.0
        if step == 90:
            seconds["backward"][5] += 2.0
            seconds["step"] = seconds["step"] + 2.0
        return 0.0

    found = progressed(Made(8, 150), pauses)
    assert {a.kind for a in found} == {"spike"} and {a.severity for a in found} == {"note"}
    told = [(a.since_step, a.evidence["cause"], str(a.where)) for a in found]
    assert told[0] == (60, "checkpoint", "the run") and told[2] == (120, "checkpoint", "the run")
    assert told[1][0] == 90 and told[1][1] in ("everybody", "few ranks")


# ------------------------------------------------------------------------------------------------------------ tables


@pytest.fixture(scope="module")
def sick(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A slow rank from step 61 on, one that falls silent at 91, duplicates, and a mix that changes half way."""
    folder = tmp_path_factory.mktemp("sick")
    made = Made(16, 150, per_node=4, faults=(Fault((6,), 1.2, since=61),))
    write(folder, "span", [t.filter([not (r == 11 and s > 90) for r, s in zip(*_two(t))]) for t in spans(made)], made)
    eaten = samples(made, clips=400, repeated=0.05)
    rows = [not (f == 1 and s > 75 and i % 4) for i, (f, s) in enumerate(zip(*_two(eaten, "frames")))]
    write(folder, "sample", [eaten.filter(rows)], made)
    return folder


def _two(table, name: str = "rank"):
    return table.column(name).to_pylist(), table.column("step").to_pylist()


def test_findings_of_a_whole_run(sick: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stepvideo.telemetry.findings.LAG_S", 5.0)
    with open_views(sick) as views:
        found = {a.kind: a for a in findings(views)}
        one = findings(views, shares={"1x256x256": 0.1, "17x256x256": 0.45, "17x192x320": 0.45})
    slow = found["slow_rank"]
    assert slow.where.ranks == (6,) and slow.where.nodes == ("training1",) and 59 <= slow.since_step <= 63
    assert slow.evidence["section"] == "forward" and slow.evidence["slower"] == pytest.approx(0.2, abs=0.03)
    assert found["silent_rank"].where.ranks == (11,) and found["silent_rank"].since_step == 91
    assert found["duplicates"].evidence["rate"] > 0.01
    assert found["mix_drift"].where.name == "1x256x256" and found["mix_drift"].since_step == 76
    assert "mix_drift" in {a.kind for a in one}


def test_a_healthy_run_has_no_findings(tmp_path: Path) -> None:
    made = Made(16, 150)
    write(tmp_path, "span", spans(made), made)
    write(tmp_path, "sample", [samples(made)], made)
    with open_views(tmp_path) as views:
        assert [a for a in findings(views) if a.severity == "warning"] == []


def test_a_follower_looks_at_the_data_too(sick: Path) -> None:
    follower = Follower(sick)
    assert {"duplicates", "mix_drift", "slow_rank"} <= {a.kind for a in follower.poll()}
    assert follower.poll() == []


def test_a_follower_goes_on_where_it_was_and_over_a_restart(tmp_path: Path) -> None:
    """Records come in parts; after a restart the last steps are done again by the next attempt."""
    fault = (Fault((3,), 1.2, since=41),)
    follower, found = Follower(tmp_path), []
    for first, steps, attempt in ((1, 30, 1), (31, 25, 1), (56, 30, 1), (81, 40, 2)):
        made = Made(8, steps, first, attempt, faults=fault, seed=first)
        write(tmp_path, "span", spans(made), made)
        found.append([a for a in follower.poll() if a.kind.startswith("slow")])
        assert follower.done == first + steps - 1
    assert found[0] == [] and follower.poll() == []
    assert [a.where.ranks for part in found[1:3] for a in part] == [(3,)]
    assert [a.where.ranks for a in found[3]] == [(3,)]  # of another life: told again
