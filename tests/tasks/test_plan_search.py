"""Searches of plans with Optuna: known optima, constraints, a search that is killed and goes on, MLflow and plots."""

from __future__ import annotations

import itertools
import json
import shutil
import subprocess
import sys
from pathlib import Path

import plan_problems
import pytest

from stepvideo.emulator.objectives import neighbours, possible, repaired
from stepvideo.errors import ConfigError
from tasks.search import Comparison, Method, OptunaSearch, compare
from tasks.search_tracking import SearchRun, table, write_page


def every_point(problem):
    for values in itertools.product(*problem.axes.values()):
        point = dict(zip(problem.axes, values))
        if possible(problem, point):
            yield point


def found(problem, method: Method, budget: int, seed: int = 0, **more) -> OptunaSearch:
    search = OptunaSearch(problem, method, seed, **more)
    for _ in search.run(budget):
        pass
    return search


@pytest.mark.parametrize("make", [plan_problems.plans, plan_problems.stream])
def test_the_known_optimum_is_that_of_all_points(make):
    problem = make()
    best = max(o.mfu for p in every_point(problem) if (o := problem.outcome(p)).fits)
    optimum = problem.optimum()
    assert optimum is not None and possible(problem, optimum[0]) and optimum[1].fits
    assert optimum[1].mfu == pytest.approx(best, rel=1e-12)


def test_neighbours_and_repaired_points_are_possible():
    problem = plan_problems.stream()
    here = repaired(problem, {axis: values[-1] for axis, values in problem.axes.items()})
    assert possible(problem, here)
    near = list(neighbours(problem, here))
    assert len(near) > 5 and all(possible(problem, p) for p in near)


@pytest.mark.parametrize("method", [Method(), Method("random"), Method("random", climbs=False)], ids=lambda m: m.name)
def test_no_point_is_evaluated_twice_and_a_small_space_is_exhausted(method):
    problem = plan_problems.plans()
    search = found(problem, method, 500)
    points = [tuple(t.user_attrs["point"].values()) for t in search.trials]
    assert len(points) == len(set(points)) <= len(list(every_point(problem)))
    optimum = problem.optimum()
    assert optimum is not None and search.best() is not None
    if method.climbs:
        assert search.best()[1] == pytest.approx(optimum[1].mfu, rel=1e-12)


def test_what_does_not_fit_is_told_as_a_constraint_and_never_the_best():
    search = found(plan_problems.stream(), Method(start=30), 40)
    over = [t for t in search.trials if t.user_attrs["outcome"]["over"] > 0]
    assert over and all(t.constraints["memory"] > 0 for t in over)
    best = search.best()
    assert best is not None and search.problem.outcome(best[0]).fits
    assert best[1] == max(search.curve()) == search.curve()[-1]


def test_a_search_that_is_killed_comes_to_the_same_points(tmp_path):
    journal = tmp_path / "killed.journal"
    for dies_after in (5, 14):
        script = [sys.executable, plan_problems.__file__, str(journal), str(dies_after)]
        assert subprocess.run(script, cwd=Path(__file__).parents[2], timeout=120).returncode == -9
    went_on = found(plan_problems.stream(), Method(start=8), 24, 3, storage=journal)
    whole = found(plan_problems.stream(), Method(start=8), 24, 3)
    assert [r for r in table(went_on)] == [r for r in table(whole)]
    assert len(went_on.trials) == 24


def test_comparison_says_when_optuna_is_of_no_use():
    problem = plan_problems.stream()
    optimum = problem.optimum()
    assert optimum is not None
    ours = found(problem, Method(), 30)
    told = compare(ours, optimum[1].mfu)
    assert ours.best() is not None and told.ours == ours.best()[1]
    assert max(told.ours, told.random, told.random_and_neighbours) <= optimum[1].mfu * (1 + 1e-9)
    assert "no use" in Comparison(0.3, 0.3, 0.2, None).verdict
    assert "random points and their neighbours" in Comparison(0.3, 0.2, 0.3, None).verdict
    assert "better than random search by 10.00 points" in Comparison(0.3, 0.2, 0.1, None).verdict


@pytest.mark.parametrize("wrong", [{"sampler": "grid"}, {"objectives": ("speed",)}, {"start": 0}])
def test_methods_that_are_none_are_refused(wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        Method(**wrong)


def test_several_objectives_have_a_front_plots_and_one_mlflow_run(tmp_path, new_mlflow):
    from mlflow import MlflowClient

    from tasks.tracking import Server

    shutil.copyfile(new_mlflow, tmp_path / "mlflow.db")
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    problem, method = plan_problems.stream(), Method(start=8, objectives=("mfu", "headroom", "parts"))
    search = OptunaSearch(problem, method, 0, tmp_path / "s.journal")
    run = SearchRun(search, Server({"mlflow_uri": uri, "experiment": "plans"}, tmp_path), {"seed": 0})
    for number, _, _ in search.run(12):
        run.trial(number)
    front = search.front()
    assert front and all(t.user_attrs["outcome"]["over"] <= 0 for t in front)
    for a, b in itertools.permutations(front, 2):
        assert not (a.values[0] >= b.values[0] and a.values[1] >= b.values[1] and a.values[2] < b.values[2])
    page = write_page(search, tmp_path / "search.html")
    assert "Pareto" in page.read_text() and page.stat().st_size > 1e6  # plotly itself is inside: no server is needed
    run.close({"mfu": 0.3}, page)

    again = SearchRun(OptunaSearch(problem, method, 0, tmp_path / "s.journal"), run.server, {"seed": 0})
    assert again.run_id == run.run_id
    client = MlflowClient(tracking_uri=uri)
    told = client.get_run(run.run_id)
    assert told.info.status == "FINISHED" and told.data.metrics["best_mfu"] == pytest.approx(search.curve()[-1])
    assert len(client.get_metric_history(run.run_id, "best_mfu")) == 12
    rows = json.loads(Path(client.download_artifacts(run.run_id, "trials.json", str(tmp_path))).read_text())
    assert len(rows) == 12 and "68x192x320.recompute" in rows[0]
