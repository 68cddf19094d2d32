"""StepMind's hands, with a made-up scheduler in them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from made_scheduler import Scheduler

from stepvideo.mind.breaker import Breaker
from stepvideo.mind.cluster import NodeState
from stepvideo.mind.decide import Action, Decision
from stepvideo.mind.settings import VARIABLE
from stepvideo.storage import write_json
from tasks.mind_acts import FOLDER, after_failure, decisions, folder_of, take_out
from tasks.mind_watch import Watch
from tasks.slurm_queue import RECORD, Job

XID = {"age_s": 3.0, "line": "NVRM: Xid (PCI:0000:3b:00): 79, GPU has fallen off the bus."}


@pytest.fixture
def stage_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Of a store with StepMind's folder, and a snapshot of node n1."""
    monkeypatch.delenv(VARIABLE, raising=False)
    snapshot(tmp_path, "n1")
    directory = tmp_path / "fit" / "0123"
    (directory / "logs").mkdir(parents=True)
    write_json(directory / RECORD, {"name": "fit-1"})
    return directory


def snapshot(store: Path, node: str, seq: int = 1, **more: Any) -> None:
    write_json(store / FOLDER / "agents" / f"{node}.json", {"node": node, "agent": "a", "seq": seq, "time": 0, **more})


def failed(code: int = 1) -> Job:
    return Job("7", "FAILED", code, "", "n1")


def test_a_failure_of_a_node_is_not_the_stages(stage_dir: Path) -> None:
    scheduler = Scheduler()
    snapshot(stage_dir.parents[1], "n1", kernel=[XID])
    assert after_failure(stage_dir, failed(), scheduler)
    assert scheduler.done == [("drain", "n1")]
    (row,) = decisions(stage_dir)
    assert (row["fault"], row["nodes"], row["done"]) == ("GPU_LOST", ["n1"], ["drain n1"])


def test_a_failure_of_the_stages_own_is_written_down_and_counts(stage_dir: Path) -> None:
    scheduler = Scheduler()
    snapshot(stage_dir.parents[1], "n1", kernel=[XID | {"age_s": 500.0}])  # of a job before
    (stage_dir / "logs" / "attempt-1.err").write_text("Traceback (most recent call last):\nKeyError: 3\n")
    assert not after_failure(stage_dir, failed(), scheduler)
    assert scheduler.done == [] and decisions(stage_dir)[0]["fault"] == "SOFTWARE_FAULT"
    assert not after_failure(stage_dir, failed(137), scheduler)
    assert decisions(stage_dir)[1]["fault"] == "PROCESS_KILLED"


def test_a_node_that_is_blamed_again_and_again_is_not_believed(stage_dir: Path) -> None:
    snapshot(stage_dir.parents[1], "n1", kernel=[XID])
    counted = [not after_failure(stage_dir, failed(), Scheduler()) for _ in range(7)]
    assert counted == [False] * 5 + [True] * 2


def test_without_agents_nothing_is_judged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    directory = tmp_path / "fit" / "0123"
    directory.mkdir(parents=True)
    assert folder_of(tmp_path) is None and not after_failure(directory, failed(), Scheduler())


def test_drains_pass_the_circuit_breaker_and_dead_nodes_do_not(stage_dir: Path) -> None:
    scheduler, folder = Scheduler(), stage_dir.parents[1] / FOLDER
    write_json(folder / "breaker.json", Breaker(open="too many").json())
    found = take_out(scheduler, Decision(Action.RESTART, "NODE_SHUTDOWN", ("n1", "n2"), dead=("n2",)), folder)
    assert scheduler.done == [("down", "n2")] and found[0].startswith("not drained, the circuit breaker is open")
    assert take_out(scheduler, Decision(Action.RESTART, "HANG", ("n1",)), folder) == []


def test_a_watch_restarts_what_runs_and_leaves_what_was_cancelled(stage_dir: Path) -> None:
    store, scheduler, said = stage_dir.parents[1], Scheduler(), []
    jobs = {"fit-1": [Job("7", "RUNNING", 0, "", "n1", starts=100.0)]}
    watch = Watch(store, scheduler, store / FOLDER, queue=lambda: jobs, said=said.append)
    other = Watch(store, scheduler, store / FOLDER, queue=lambda: jobs)  # two watches, one of which acts
    for second in range(6):
        snapshot(store, "n1", seq=second, jobs={"7": {"processes": 2, "stopped": 0, "cpu": 1.0, "io": 0.0}})
        with (stage_dir / "events.jsonl").open("a") as f:
            f.write(json.dumps({"type": "progress", "done": second, "total": 9, "unit": "step"}) + "\n")
        assert watch.look(float(second), 0.0) == other.look(float(second), 0.0) == []
    jobs["fit-1"] = [Job("7", "CANCELLED", 0, "", "n1", starts=100.0)]
    for second in range(6, 60):
        assert watch.look(float(second), 0.0) == []
    jobs["fit-1"] = [Job("7", "RUNNING", 0, "", "n1", starts=200.0)]
    scheduler.states["n1"] = NodeState.DOWN
    decided = [d for second in range(60, 66) for d in watch.look(float(second), 0.0)]
    assert [d.fault for d in decided] == ["NODE_SHUTDOWN"] and len(said) == 1
    assert scheduler.done == [("down", "n1"), ("requeue", "7", "n1")]
