"""Views over made tables with known faults: where the time goes, who is slow, what was consumed."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from made_training import SECTIONS, Fault, Made, counters, durations, samples, spans, write, write_run

from stepvideo.errors import StepVideoError
from stepvideo.telemetry.consumption import consumption, duplicates, mix
from stepvideo.telemetry.places import Layout, Place, blame
from stepvideo.telemetry.throughput import series
from stepvideo.telemetry.times import Cube, breakdown, cube, relative, slow_places
from stepvideo.telemetry.views import open_views, runs

RUN = Made(ranks=16, steps=40, tensor=4, faults=(Fault((9,), 1.15, "backward", since=21),))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    where = tmp_path_factory.mktemp("telemetry")
    write_run(where, RUN)
    return where


def test_breakdown_is_the_mean_rank(folder: Path) -> None:
    made = durations(RUN)
    with open_views(folder) as views:
        rows = {r["section"]: r for r in breakdown(views)}
    assert set(rows) == {*SECTIONS, "step"}
    for name in rows:
        assert rows[name]["seconds"] == pytest.approx(made[name].mean() / 1e3, rel=1e-6)
        assert rows[name]["p90"] == pytest.approx(np.quantile(made[name], 0.9) / 1e3, rel=1e-6)
    assert rows["step"]["share"] == 1
    assert sum(r["share"] for r in rows.values()) == pytest.approx(2)
    assert [n for n, r in rows.items() if r["waiting"]] == ["grad_reduce"]


def test_cube_holds_every_span_and_a_spike_moves_its_mean_little(folder: Path) -> None:
    made = durations(RUN)["forward"]
    with open_views(folder) as views:
        found, part = cube(views, stretches=8), cube(views, first=11, last=20)
    i = found.sections.index("forward")
    assert found.width == 5 and list(found.starts) == list(range(1, 41, 5))
    assert found.total[i].sum() / 1e6 == pytest.approx(made.sum(), rel=1e-6)
    assert found.count[i].sum() == made.size
    assert np.exp(found.log[i, 3, 0]) / 1e6 == pytest.approx(np.exp(np.log(made[:5, 3]).mean()), rel=1e-6)
    assert part.width == 1 and list(part.starts) == list(range(11, 21))
    assert part.seconds("forward")[3] * 1e3 == pytest.approx(made[10:20, 3], rel=1e-6)


def test_relative_is_to_the_ranks_of_the_same_steps() -> None:
    log = np.log([[1.0, 2, np.nan], [1, 4, np.nan], [3, 2, np.nan]])
    assert np.exp(relative(log)) == pytest.approx(
        np.array([[1, 1, np.nan], [1, 2, np.nan], [3, 1, np.nan]]), nan_ok=True
    )


def test_the_reports_case_is_blamed_on_the_group(folder: Path) -> None:
    """Backward is slow on all ranks of one tensor group; forward and optimizer are not (report, 6.4)."""
    with open_views(folder) as views:
        found = slow_places(cube(views), views.layout)
    assert [(s.place.kind, s.place.ranks, s.section) for s in found] == [("group", (8, 9, 10, 11), "backward")]
    assert found[0].place.nodes == ("training1",)
    assert found[0].excess == pytest.approx(np.log(1.15), abs=0.06)
    assert 20 <= found[0].since <= 22 and found[0].until == 40


def test_spans_of_exchanges_tell_which_rank_of_the_group_it_is(tmp_path: Path) -> None:
    made = replace(RUN, exchanges=True, faults=(Fault((9,), 1.15, "backward"),))
    write_run(tmp_path, made)
    with open_views(tmp_path) as views:
        found = slow_places(cube(views), views.layout)
    assert {s.place for s in found} == {Place("rank", "9", (9,), ("training1",))}


LAYOUT = Layout({r: f"n{r // 4}" for r in range(32)}, tensor=8)  # groups of two nodes
CROSSED = Layout({r: f"n{r % 4}" for r in range(16)}, tensor=2)  # a node has a part in four groups
SINGLE = Layout({r: f"n{r // 4}" for r in range(32)})


@pytest.mark.parametrize(
    ("layout", "slow", "computing", "blamed"),
    [
        (SINGLE, {5}, (), ["rank 5 on n1"]),
        (SINGLE, {4, 5, 6, 7}, (), ["node n1"]),
        (SINGLE, {4, 5, 7, 12}, (), ["node n1", "rank 12 on n3"]),  # three of four ranks are the node
        (LAYOUT, set(range(8, 16)), (), ["group 1 (ranks 8 to 15) on n2, n3"]),  # which of the two nobody can tell
        (LAYOUT, set(range(8, 16)), {13}, ["rank 13 on n3"]),
        (LAYOUT, set(range(8, 16)), {12, 13, 14, 15}, ["node n3"]),
        (LAYOUT, set(range(16)), {1, 12, 13, 14, 15}, ["node n3", "rank 1 on n0"]),
        (CROSSED, {0, 1, 4, 5, 8, 9, 12, 13}, (), []),  # n0 and n1 account for the same: groups, below
        (SINGLE, set(), (), []),
    ],
)
def test_blame(layout: Layout, slow: set[int], computing: set[int], blamed: list[str]) -> None:
    found = [str(p) for p in blame(slow, layout, computing)]
    if layout is CROSSED:
        blamed = [f"group {g} (ranks {2 * g} to {2 * g + 1}) on n0, n1" for g in (0, 2, 4, 6)]
    assert found == blamed


def test_a_node_of_many_groups_is_found_by_what_they_share() -> None:
    layout = Layout({0: "a", 1: "b", 2: "a", 3: "c", 4: "b", 5: "c", 6: "d", 7: "d"}, tensor=2)
    assert [str(p) for p in blame({0, 1, 2, 3}, layout)] == ["node a"]


def test_steps_that_were_done_again_count_once(tmp_path: Path) -> None:
    """Attempt 1 reaches step 30; 2 resumes at 21 and dies at 24; 3 resumes at 21."""
    lives = [(1, 1, 30), (2, 21, 4), (3, 21, 5)]
    for attempt, first, steps in lives:
        made = Made(ranks=4, first=first, steps=steps, attempt=attempt, seed=attempt)
        write(tmp_path, "span", spans(made), made)
        write(tmp_path, "sample", [samples(made)], made)
    with open_views(tmp_path) as views:
        kept = views.sql("SELECT attempt, min(step), max(step), count(*) FROM span GROUP BY attempt ORDER BY attempt")
        eaten = views.sql("SELECT attempt, count(*) FROM sample GROUP BY attempt ORDER BY attempt")
        assert views.steps == (1, 25) and len(views.attempts) == 3
    sections = len(SECTIONS) + 1
    assert kept == [(1, 1, 20, 20 * 4 * sections), (3, 21, 25, 5 * 4 * sections)]
    assert eaten == [(1, 20 * 16), (3, 5 * 16)]


def test_throughput_beside_the_prediction(folder: Path) -> None:
    made = durations(RUN)["step"].max(1) / 1e3
    with open_views(folder) as views:
        found, given = series(views), series(views, predicted=0.1)
    assert found.seconds == pytest.approx(made, rel=1e-6)
    said = found.summary()
    tokens = 4 * (256 + 1280 + 1200) / 3 * 4  # four data ranks
    assert said["tokens_per_s"] == pytest.approx(tokens * 39 / made[1:].sum(), rel=1e-6)
    assert said["mfu"] == pytest.approx(4 * 1.3e14 * 39 / made[1:].sum() / (16 * 989e12), rel=1e-6)
    assert said["measured_over_predicted"] == pytest.approx(np.median(made[1:]) / 0.33, rel=1e-6)
    assert given.summary()["predicted_step_s"] == 0.1


def test_a_run_without_steps_samples_or_counters_still_answers(tmp_path: Path) -> None:
    made = Made(ranks=2, steps=3, first=0)
    write(tmp_path, "counter", [counters(made, {"x": 1.0}, a_step=False)], made)
    with open_views(tmp_path) as views:
        assert views.steps == (0, 0) and breakdown(views) == [] and consumption(views) == []
        assert series(views).summary()["step_s"] is None
        assert duplicates(views)["rate"] == 0 and mix(views) == []
        assert isinstance(cube(views), Cube) and slow_places(cube(views), views.layout) == []


def test_consumption_by_source_kind_and_bucket(folder: Path) -> None:
    table = samples(RUN)
    with open_views(folder) as views:
        rows = {by: {r[by]: r for r in consumption(views, by)} for by in ("source", "kind", "bucket")}
    kinds = table.column("kind").to_pylist()
    assert rows["kind"]["image"]["samples"] == kinds.count("image")
    assert sum(r["share"] for r in rows["source"].values()) == pytest.approx(1)
    assert sum(r["tokens"] for r in rows["bucket"].values()) == sum(table.column("tokens").to_pylist())


def test_ranks_that_share_samples_count_them_once(tmp_path: Path) -> None:
    """Also where every rank of a group told them."""
    made = Made(ranks=4, steps=10, tensor=1)
    write(tmp_path, "span", spans(made), made)
    write(tmp_path, "sample", [samples(made)], made)
    write(tmp_path, "counter", [counters(made, {"parallel.tensor": 2.0}, a_step=False)], made)
    with open_views(tmp_path) as views:
        assert views.layout.block == 2
        assert sum(r["samples"] for r in consumption(views)) == 10 * 4 * 2


@pytest.mark.parametrize(
    ("clips", "repeated", "low", "high"), [(10_000, 0.0, 0, 0), (60, 0.0, 0, 0), (60, 0.05, 0.02, 0.08)]
)
def test_duplicates_are_what_an_epoch_sees_again(
    tmp_path: Path, clips: int, repeated: float, low: float, high: float
) -> None:
    """60 clips a bucket are gone through many times: no duplicates, until some are drawn twice in an epoch."""
    made = Made(ranks=4, steps=100)
    write(tmp_path, "span", spans(Made(ranks=4, steps=1)), made)
    write(tmp_path, "sample", [samples(made, clips=clips, repeated=repeated)], made)
    with open_views(tmp_path) as views:
        views.steps = (1, 100)
        found = duplicates(views)
    assert found["samples"] == 1600
    assert low <= found["rate"] <= high
    assert bool(found["worst"]) == (repeated > 0)


def test_mix_against_configured_shares(folder: Path) -> None:
    with open_views(folder) as views:
        rows = {r["bucket"]: r for r in mix(views, {"1x256x256": 1, "17x256x256": 2, "49x256x256": 1})}
        later = mix(views, first=21)
    assert rows["17x256x256"]["expected"] == 0.5 and rows["17x192x320"]["expected"] == 0
    assert rows["49x256x256"]["samples"] == 0 and rows["49x256x256"]["expected"] == 0.25
    assert sum(r["share"] for r in later) == pytest.approx(1) and sum(r["expected"] for r in later) == pytest.approx(1)
    assert rows["1x256x256"]["draws"] == 40 * 4 and later[0]["draws"] == 40  # of 80, held against 80


def test_runs_are_chosen_by_their_beginning(tmp_path: Path) -> None:
    for run in ("sft/ab", "t2vi/cd's", "t2vi/ce"):
        made = Made(ranks=2, steps=2, run=run)
        write(tmp_path, "span", spans(made), made)
    assert set(runs(tmp_path)) == {"sft/ab", "t2vi/cd's", "t2vi/ce"}
    for given, run in (("sft", "sft/ab"), ("t2vi/cd", "t2vi/cd's")):
        with open_views(tmp_path, given) as views:
            assert views.run == run and views.steps == (1, 2)
    for given, said in (("t2vi", "2 runs"), ("vae", "0 runs")):
        with pytest.raises(StepVideoError, match=said):
            open_views(tmp_path, given)
    with pytest.raises(StepVideoError, match="no stage 'x'; it has: t2vi_192p"):
        open_views(tmp_path, "sft", "x")
    with pytest.raises(StepVideoError, match="no telemetry in Parquet"):
        open_views(tmp_path / "nowhere")


def test_readers_do_not_lock_each_other_out(folder: Path) -> None:
    """A DuckDB file would: a second process cannot open it while one writes."""
    code = f"from stepvideo.telemetry.views import open_views as o; print(o({str(folder)!r}).steps)"
    with open_views(folder) as views:
        other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert other.stdout.strip() == str(views.steps)
