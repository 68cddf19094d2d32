"""What is in MLflow beside metrics: videos, tables, tags that find runs; told twice, everything is there once."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from made_runs import MadeRuns

from stepvideo import storage
from stepvideo.stage import StageSpec
from tasks.ledger import Ledger
from tasks.stages import Outcome
from tasks.tracking import Server, Tracking
from tasks.tracking_content import ROWS

DOCS = Path(__file__).resolve().parents[2] / "docs" / "comparing.md"
A, B = "20261101-120000-aaaaaa", "20261102-120000-bbbbbb"


class Told:
    """Two runs, told to an MLflow of their own; the second differs in its learning rate and fails at its end."""

    def __init__(self, folder: Path, database: Path) -> None:
        shutil.copy(database, folder / "mlflow.db")
        self.made = MadeRuns(folder)
        self.made.run(A)
        self.made.run(B, lr=0.2, better=25)
        self.uri = f"sqlite:///{folder}/mlflow.db"
        self.server = Server({"mlflow_uri": self.uri, "experiment": "stepvideo"}, folder)
        self.client = self.server.client
        self.experiment = self.server.experiment_id

    def tell(self, run: str, failed: bool = False) -> Tracking:
        """As a driver does, stage by stage."""
        record = storage.read_json(self.made.store.root / "_runs" / run / "run.json")
        cfg = {**record["config"], "name": "smoke", "cluster": {"launcher": "local"}}
        lineage = {"run": run, "git_sha": "c0ffee" * 6, "git_dirty": "", "data_md5": "aa.dir", "data_dvc": "outs"}
        tracking = Tracking(self.server, lineage, cfg)
        tracking.open(lambda: None)
        for name, said in record["stages"].items():
            artifact = self.made.store.find(name, said["key"])
            assert artifact
            spec, ledger = StageSpec.read(artifact.dir / "spec.json"), Ledger(artifact.dir)
            if not said["cached"]:
                tracking.started(spec, ledger, False)
            tracking.ended(spec, Outcome(artifact, bool(said["cached"])), None)
        tracking.close(RuntimeError("the machine erred") if failed else None)
        assert not tracking.broken
        return tracking

    def search(self, query: str) -> list[Any]:
        return self.client.search_runs([self.experiment], filter_string=query)


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory, new_mlflow: Path) -> Told:
    found = Told(tmp_path_factory.mktemp("told"), new_mlflow)
    found.tell(A)
    found.tell(B, failed=True)
    return found


def table(told: Told, run: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """As a notebook loads it: the client's `load_table` asks where the environment says."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", told.uri)
    return told.client.load_table(told.experiment, ROWS, [run.info.run_id])


def test_an_evaluation_brings_its_videos_and_all_its_rows(
    told: Told, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (run,) = told.search("tags.stage = 'evaluate.sft.1' and params.better = '25'")
    names = {a.path for a in told.client.list_artifacts(run.info.run_id, "samples/main")}
    assert names == {f"samples/main/000{i}.mp4" for i in range(3)}
    kept = Path(told.client.download_artifacts(run.info.run_id, "samples/main/0001.mp4", str(tmp_path)))
    (made,) = told.made.store.root.glob(f"evaluate.sft.1/{run.data.tags['stage_key']}/out/samples/main/0001.mp4")
    assert kept.read_bytes() == made.read_bytes()
    rows = table(told, run, monkeypatch)
    assert len(rows) == 60 and int(rows["all"].sum()) == 45 and rows["shape"].isna().all()
    assert list(rows["text"][:2]) == ["a red square <0>", "a red square <1>"]


def test_the_parent_has_what_runs_are_compared_by(told: Told) -> None:
    found = {r.data.tags["run"]: r for r in told.search("tags.kind = 'cascade'")}
    rates = {run: r.data.metrics["evaluate.sft.1/train/all"] for run, r in found.items()}
    assert rates == {A: pytest.approx(20 / 60), B: pytest.approx(45 / 60)}
    assert {r.data.metrics["raw/loss"] for r in found.values()} == {0.0}  # of B a cached stage
    digests = {r.data.tags["model_digest"] for r in found.values()}
    (evaluated,) = told.search("tags.stage = 'evaluate.sft.1' and params.better = '25'")
    assert len(digests) == 2 and evaluated.data.tags["model_digest"] == found[B].data.tags["model_digest"]


def test_the_filters_of_the_documents_find_what_they_say(told: Told) -> None:
    block = re.search(r"```mlflow-filter\n(.*?)```", DOCS.read_text(), re.DOTALL)
    assert block
    found = {q: sorted(r.data.tags.get("stage", "cascade") for r in told.search(q)) for q in block[1].splitlines()}
    expected = [
        ["cascade", "cascade"],
        ["evaluate.sft.1", "evaluate.sft.1"],
        ["sft.1", "sft.1"],
        ["evaluate.sft.1"],
        ["sft.1"],
        ["cascade"],
        ["captions", "cascade", "cascade", "evaluate.sft.1", "evaluate.sft.1", "raw", "sft.1", "sft.1"],
        ["evaluate.sft.1", "evaluate.sft.1"],
        ["cascade"],
    ]
    assert dict(zip(found, expected, strict=True)) == found


def test_told_twice_everything_is_there_once(told: Told, monkeypatch: pytest.MonkeyPatch) -> None:
    """A driver that was killed after MLflow knew, and before its ledger did."""
    before = {r.info.run_id: r for r in told.search("")}
    for path in told.made.store.root.glob("*/*/ledger.json"):
        ledger = Ledger(path.parent)
        ledger.update_tracking(offset=0, closed=False)
    told.tell(A)
    again = {r.info.run_id: r for r in told.search("")}
    assert len(again) == len(before) + 1  # a parent for the new invocation, and no child
    for run_id, run in before.items():
        assert again[run_id].data.metrics == run.data.metrics and again[run_id].data.params == run.data.params
        for metric in run.data.metrics:
            rows = [(m.step, m.timestamp) for m in told.client.get_metric_history(run_id, metric)]
            assert len(rows) == len(set(rows)), metric
    for run in told.search("tags.stage = 'evaluate.sft.1'"):
        assert len(table(told, run, monkeypatch)) == 60
        assert len(told.client.list_artifacts(run.info.run_id, "samples/main")) == 3
