"""Nodes move between two partitions of a real Slurm as the pipes of a stage say; the jobs on them run on."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from slurm_cluster import Cluster, missing

from stepvideo.mind.keeper import Keeper
from stepvideo.mind.mover import Mover
from stepvideo.mind.settings import Folder
from stepvideo.sink import JsonlSink
from stepvideo.storage import write_json
from tasks.slurm_nodes import SlurmNodes
from tasks.slurm_queue import RECORD
from tasks.stage_rates import StageRates

pytestmark = [pytest.mark.slow, pytest.mark.skipif(bool(missing()), reason=missing())]


def test_nodes_follow_the_rates_and_no_job_is_killed(
    tmp_path: Path, tmp_path_factory, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = Cluster(tmp_path_factory.mktemp("slurm"))
    monkeypatch.setenv("SLURM_CONF", str(cluster.conf))
    folder, nodes, stage = Folder(tmp_path / "mind"), SlurmNodes(), tmp_path / "store" / "t2vi" / "key"
    write_json(folder.root / "mind.json", {"shift": {"act": True, "patience": 2}})
    write_json(stage / RECORD, {})
    sink, said = JsonlSink(stage / "producers" / "events.jsonl"), []
    keeper, mover = (
        Keeper(folder, nodes, said.append),
        Mover(folder, nodes, StageRates(tmp_path / "store"), said.append),
    )

    def submit(partition: str, command: str, *more: str) -> str:
        given = ["--parsable", f"--partition={partition}", "--output=/dev/null", *more, f"--wrap={command}"]
        return cluster.ask("sbatch", *given).strip()

    def state(job: str) -> str:
        return cluster.ask("squeue", "-h", "--states=all", f"--jobs={job}", "--format=%T %N").strip()

    def until(what: Callable[[], bool], rates: dict[str, float] | None = None) -> None:
        deadline = time.monotonic() + 60
        while not what():
            assert time.monotonic() < deadline, (said, cluster.ask("sinfo"), cluster.ask("squeue", "--states=all"))
            if rates:
                sink.event("rates", packs_per_s=5.0, **rates)
            keeper.tick(time.time())
            mover.tick(time.time())
            time.sleep(0.1)

    try:
        go = tmp_path / "go"
        held = [submit("training", f"until [ -e {go} ]; do sleep 0.1; done", "--exclusive") for _ in range(2)]
        until(lambda: all(state(job).startswith("RUNNING") for job in held))
        waiting = submit("training", "true", "--nodelist=training0")
        training_waits = {"producers_idle": 0.0, "training_waits": 0.6}
        until(lambda: "buffer" in _partitions(nodes, "training0"), training_waits)
        assert [state(job).split()[0] for job in held] == ["RUNNING"] * 2, cluster.ask("squeue", "-a", "--states=all")
        go.touch()
        until(lambda: _partitions(nodes, "training0") == {"inference"})
        assert {state(job).split()[0] for job in held} == {"COMPLETED"}
        assert state(waiting).startswith("PENDING")  # its node takes no more jobs of training
        cluster.ask("scancel", waiting)
        here = submit("inference", "true", "--nodelist=training0")
        until(lambda: state(here) == "COMPLETED training0")

        until(lambda: len(said) == 2, {"producers_idle": 0.6, "training_waits": 0.0})
        until(lambda: _partitions(nodes, "inference0") == {"training", "urgent"})
        there = submit("training", "true", "--nodes=2", "--nodelist=training1,inference0")
        until(lambda: state(there).startswith("COMPLETED"))
        assert os.path.exists(folder.root / "nodes" / "inference0.json")
    finally:
        sink.close()
        cluster.stop()


def _partitions(nodes: SlurmNodes, name: str) -> set[str]:
    return set(next(n for n in nodes.nodes() if n.name == name).partitions)
