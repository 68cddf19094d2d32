"""A real training stage, two ranks on each of two nodes of a real Slurm, one of which dies: the bytes of four processes
here.
"""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from killed_stages import EVERY, Command, finished, make_inputs, prepare
from slurm_cluster import missing
from slurm_stages import clients, slurm, wait_for  # noqa: F401

from stepvideo import storage
from stepvideo.sink import read_events
from stepvideo.stage import StageSpec
from tasks.slurm import Slurm
from tasks.slurm_config import SlurmConfig
from tasks.stages import run_stage

pytestmark = [
    pytest.mark.soak,
    pytest.mark.skipif(bool(missing()), reason=missing()),
    pytest.mark.usefixtures("clients"),
]
PARALLEL = {"tensor": 2, "zero": 1}


def test_two_nodes_train_as_four_processes_here(slurm, tmp_path: Path) -> None:  # noqa: F811
    import threading

    inputs = make_inputs(tmp_path / "inputs")
    here = finished(prepare("t2vi", inputs, tmp_path / "here", nproc=4, parallel=PARALLEL), Command)
    directory = prepare("t2vi", inputs, tmp_path / "there", nproc=4, parallel=PARALLEL, max_attempts=1)
    config = SlurmConfig(partition="training", nodes=2, poll_s=0.5, warn_s=50)
    outcome: list[object] = []

    def drive() -> None:
        outcome.append(run_stage(StageSpec.read(directory / "spec.json"), Slurm(config), grace_s=5))

    driver = threading.Thread(target=drive)
    began = time.monotonic()
    driver.start()

    def steps() -> int:
        return sum(e["type"] == "metrics" for e in read_events(directory / "events.jsonl")[0])

    wait_for(lambda: steps() > EVERY + 1, driver.is_alive, timeout=300)
    slurm.kill("training1")
    wait_for(lambda: "down" in slurm.state("training1"))
    slurm.revive("training1")
    driver.join(300)
    print(f"on two nodes, one of which died: {time.monotonic() - began:.0f} s")
    assert outcome and storage.checksums(directory / "out") == here
    starts = [e for e in read_events(directory / "events.jsonl")[0] if e.get("name") == "attempt_started"]
    assert [e["world_size"] for e in starts] == [4, 4]
