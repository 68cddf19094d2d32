"""MLflow: one parent a run, one child a stage key, nothing twice, nothing left RUNNING, training goes on without it."""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path

import pytest

from stepvideo import storage

SLOW = "stages.fit.step_s=0.1"


@pytest.fixture
def mlflow(mini, new_mlflow):
    """The run's database through a client of its own; the runs find it empty."""
    (mini.folder / "work").mkdir()
    shutil.copy(new_mlflow, mini.folder / "work")
    return Database(mini)


class Database:
    def __init__(self, mini) -> None:
        self.on = ["tracking=local", "tracking.prefect=false"]
        self.uri = f"sqlite:///{mini.folder / 'work'}/mlflow.db"
        self.mini = mini

    @property
    def client(self):
        from mlflow import MlflowClient

        return MlflowClient(tracking_uri=self.uri, registry_uri=self.uri)

    def runs(self) -> list:
        ids = [e.experiment_id for e in self.client.search_experiments()]
        return self.client.search_runs(ids)

    def parents(self) -> list:
        return [r for r in self.runs() if "stage_key" not in r.data.tags]

    def children(self) -> dict:
        found = {r.data.tags["stage"]: r for r in self.runs() if "stage_key" in r.data.tags}
        assert len(found) + len(self.parents()) == len(self.runs()), "one child a stage key"
        return found

    def states(self) -> set[str]:
        return {r.info.status for r in self.runs()}


def test_parent_children_and_what_they_hold(mini, mlflow) -> None:
    rows = mini.run(*mlflow.on, "cluster=local", "cluster.concurrency=2")
    (parent,), children = mlflow.parents(), mlflow.children()
    assert set(children) == {"noise", "fit", "score"} and mlflow.states() == {"FINISHED"}
    for name, run in children.items():
        tags = run.data.tags
        assert tags["mlflow.parentRunId"] == parent.info.run_id
        assert (tags["stage_key"], tags["digest"]) == (rows[name]["key"], rows[name]["digest"])
        assert parent.data.tags[f"stage.{name}"] == run.info.run_id
        spec = storage.read_json(Path(rows[name]["path"]).parent / "spec.json")
        assert mlflow.client.download_artifacts(run.info.run_id, "config.json", str(mini.folder)) and (
            storage.read_json(mini.folder / "config.json") == spec["config"]
        )
        assert spec["lineage"]["run_id"] == run.info.run_id and spec["lineage"]["git_sha"] == tags["git_sha"]
    fit = children["fit"]
    assert fit.data.params["lr"] == "0.1" and fit.data.params["runtime.threads"] == "1"
    assert [m.step for m in mlflow.client.get_metric_history(fit.info.run_id, "mean")] == list(range(20))
    assert fit.data.metrics["final/mean"] == rows["fit"]["metrics"]["mean"]
    (inputs,) = fit.inputs.dataset_inputs
    assert inputs.dataset.digest == rows["noise"]["digest"][:32] and inputs.tags[0].value == "data"
    assert not list(mini.folder.glob("**/mlruns"))


def test_what_the_curation_left_is_a_table_and_a_plot(mini, mlflow, monkeypatch: pytest.MonkeyPatch) -> None:
    import toy_gated

    monkeypatch.setenv("STEPVIDEO_KINDS", toy_gated.KINDS)
    mini.run(*mlflow.on, "graph=toy_gated", "gate=false")
    run_id = mlflow.children()["clips"].info.run_id
    kept = {a.path for a in mlflow.client.list_artifacts(run_id, "figures")}
    assert kept == {"figures/table.json", "figures/plot.svg"}
    table = storage.read_json(Path(mlflow.client.download_artifacts(run_id, "figures/table.json", str(mini.folder))))
    assert table["columns"] == ["step", "count"] and ["quarantined: no_video", 1] in table["data"]
    assert not mlflow.client.list_artifacts(mlflow.children()["fit"].info.run_id, "figures")


def test_a_cached_stage_is_linked_to_the_run_that_made_it(mini, mlflow) -> None:
    mini.run(*mlflow.on)
    made = {name: r.info.run_id for name, r in mlflow.children().items()}
    mini.run(*mlflow.on)
    assert len(mlflow.parents()) == 2 and {n: r.info.run_id for n, r in mlflow.children().items()} == made
    for parent in mlflow.parents():
        path = mlflow.client.download_artifacts(parent.info.run_id, "stages.json", str(mini.folder))
        assert storage.read_json(Path(path)) == made


def test_the_last_model_is_registered_once(mini, mlflow) -> None:
    rows = mini.run(*mlflow.on)
    mini.run(*mlflow.on)
    (version,) = mlflow.client.search_model_versions("name = 'stepvideo-t2v'")
    assert version.source == rows["score"]["path"] and version.run_id == mlflow.children()["score"].info.run_id
    assert version.tags["stage_key"] == rows["score"]["key"]
    assert mlflow.client.get_model_version_by_alias("stepvideo-t2v", "candidate").version == version.version
    mini.run(*mlflow.on, "stages.score.offset=1")
    assert mlflow.client.get_model_version_by_alias("stepvideo-t2v", "candidate").version == version.version + 1
    code, out, _ = mini.cli("lineage", "stepvideo-t2v@candidate", "--store", str(mini.store.root))
    assert code == 0 and "score/" in out and "noise/" in out and "--until score" in out


def test_a_failure_is_shown_and_the_next_run_goes_on_in_the_same_child(mini, mlflow) -> None:
    mini.fails(*mlflow.on, "stages.fit.fail_at=5", "runtime.max_attempts=1")
    fit = mlflow.children()["fit"]
    assert fit.info.status == "FAILED" and "the machine erred" in fit.data.tags["error"]
    assert mlflow.parents()[0].info.status == "FAILED"


def test_killed_driver_and_job_leave_nothing_running_and_nothing_twice(mini, mlflow) -> None:
    driver = mini.process(*mlflow.on, "cluster=local", SLOW)
    directory = mini.wait_for_step("fit", 8)
    driver.kill()
    driver.wait()
    os.kill(storage.read_json(directory / "heartbeat.json")["pid"], signal.SIGKILL)
    assert "RUNNING" in mlflow.states()
    code, out, _ = mini.cli("status", "--reap", "--store", str(mini.store.root))
    assert code == 0 and "→ KILLED" in out
    assert mlflow.states() == {"FINISHED", "KILLED"}
    again = [r.info.run_id for r in mlflow.children().values()]
    mini.finish(mini.process(*mlflow.on, "cluster=local", SLOW))
    children = mlflow.children()
    assert {"FINISHED"} == {r.info.status for r in children.values()} and children["fit"].info.run_id in again
    assert children["fit"].data.tags["attempt"] == "2"
    steps = [m.step for m in mlflow.client.get_metric_history(children["fit"].info.run_id, "mean")]
    assert steps == list(range(20))
    assert sorted(r.info.status for r in mlflow.parents()) == ["FINISHED", "KILLED"]


def test_what_a_killed_driver_missed_is_caught_up(mini, mlflow) -> None:
    driver = mini.process(*mlflow.on, "cluster=local", SLOW)
    directory = mini.wait_for_step("fit", 3)
    driver.kill()
    driver.wait()
    mini.cli("logs", "fit", "-f", "--store", str(mini.store.root))  # the job ends on its own
    assert (directory / "manifest.json").exists()
    assert mini.run(*mlflow.on, SLOW)["fit"]["cached"]
    fit = mlflow.children()["fit"]
    assert fit.info.status == "FINISHED"
    assert [m.step for m in mlflow.client.get_metric_history(fit.info.run_id, "mean")] == list(range(20))


def test_training_goes_on_without_mlflow_and_is_caught_up(mini, mlflow) -> None:
    code, out, err = mini.cli("run", *mini.args(*mlflow.on, "tracking.mlflow_uri=sqlite:////proc/none/mlflow.db"))
    assert code == 0 and "MLflow was not reached" in out
    rows = mini.run(*mlflow.on)
    assert all(r["cached"] for r in rows.values()) and mlflow.states() == {"FINISHED"}
    children = mlflow.children()
    assert {n: c.data.tags["digest"] for n, c in children.items()} == {n: r["digest"] for n, r in rows.items()}
    assert len(mlflow.client.get_metric_history(children["fit"].info.run_id, "mean")) == 20
