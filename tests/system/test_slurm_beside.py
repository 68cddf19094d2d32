"""Components of a heterogeneous job on a real Slurm, and what the doctor finds there."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pytest
from slurm_cluster import missing
from slurm_stages import Driver, wait_for

from tasks.logs import log_files
from tasks.slurm_config import SlurmConfig
from tasks.slurm_probe import probe

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(missing()), reason=missing()),
    pytest.mark.usefixtures("clients"),
]
CONFIG = SlurmConfig(partition="training", poll_s=0.3)


def test_a_component_of_a_heterogeneous_job_runs_as_long_as_the_stage(slurm, stage) -> None:
    """It is started again when it ends, and Slurm ends it with the stage."""
    command = "bash -c 'echo $SLURMD_NODENAME $SLURM_PROCID >> {stage_dir}/beside; sleep 0.5'"
    beside = {"partition": "inference", "nodes": 2, "command": command}
    driver = Driver(stage("there", step_s=0.1, steps=30), het=[beside], partition="training")
    assert driver.outcome().attempts == 1
    lines = (driver.dir / "beside").read_text().splitlines()
    assert {"inference0 0", "inference1 1"} == set(lines) and len(lines) >= 4
    assert set(log_files(driver.dir).values()) == {"", "het1"}
    wait_for(lambda: not slurm.ask("squeue", "--noheader"), timeout=10)


def wrapper(folder: Path, script: str) -> str:
    """A python for the nodes of which something is wrong."""
    path = folder / "python"
    path.write_text(f'#!/bin/bash\n{script}\nexec {sys.executable} "$@"\n')
    path.chmod(0o755)
    return str(path)


def site(folder: Path, code: str) -> str:
    """A python in which that was run first."""
    (folder / "sitecustomize.py").write_text(code)
    return wrapper(folder, f"export PYTHONPATH={folder}:$PYTHONPATH")


def named(checks: list[Any], name: str) -> Any:
    return next(c for c in checks if c.name.startswith(name))


def test_the_probe_finds_what_nodes_do_not_share(slurm, tmp_path) -> None:
    store = tmp_path / "store"
    store.mkdir()
    fine = probe(store, CONFIG, "inference")
    assert "inference0, inference1 share" in named(fine, "slurm nodes of inference").detail
    assert [c.name for c in fine if c.status == "missing"] == []
    late = site(tmp_path, "import time\nnow = time.time\ntime.time = lambda: now() - 90\n"
                          "import fcntl\nfcntl.flock = lambda *_: None\n")  # fmt: skip
    found = probe(store, SlurmConfig(python=late), "training", nodes=1)
    assert "behind the driver's" in named(found, "clock of").detail and "chrony" in named(found, "clock of").fix
    assert "not seen there" in named(found, "flock on").detail and "NFS 4" in named(found, "flock on").fix
    mount = f'mount -t tmpfs none {store}; exec "$0" "$@"'
    elsewhere = f"""[ -n "$APART" ] || APART=1 exec unshare --mount bash -c '{mount}' "$0" "$@\""""
    found = probe(store, SlurmConfig(python=wrapper(tmp_path, elsewhere)), "training", nodes=1)
    assert named(found, "slurm nodes").status == "missing" and "is not shared" in named(found, "slurm nodes").detail
    broken = probe(store, SlurmConfig(python="/no/such/python"), "training", nodes=1)
    assert "cluster.slurm.python" in named(broken, "slurm nodes").fix
    busy = probe(store, SlurmConfig(extra={"begin": "now+1hour"}), "training", nodes=1, wait_s=1)
    assert "waits since" in named(busy, "slurm nodes").detail and busy[0].status == "warn"
    assert list(store.glob("_probe/*")) == []


def test_the_doctor_names_what_is_wrong(slurm, tmp_path, monkeypatch) -> None:
    from flows.doctor import slurm_checks

    def found(*settings: str) -> dict[str, Any]:
        mini = ["graph=toy_stages", "profile=bare", f"store={tmp_path / 'store'}", *settings]
        return {c.name: c for c in slurm_checks(mini)}

    monkeypatch.setattr("tasks.slurm_probe.probe", lambda *args: [])
    fine = found("cluster.slurm.partition=training")
    assert {c.status for c in fine.values()} == {"ok", "warn"} and fine["slurm accounting"].status == "warn"
    assert "a requeued job waits 5 s" in fine["slurm requeue"].detail
    wrong = found("cluster.slurm.partition=trainig")
    assert "there are training (2 nodes), urgent (2 nodes), inference (2 nodes)" in wrong["slurm partitions"].fix
    big = found("cluster.slurm.gpus_per_node=9")["sbatch of noise, fit, score"]
    assert "not available" in big.detail and "no nodes of that partition have it" in big.fix
    with monkeypatch.context() as away:
        away.setenv("PATH", "")
        assert "login node" in found()["slurm commands"].fix
    slurm.kill("controller")
    try:
        monkeypatch.setattr("tasks.slurm_queue.ANSWER_S", 3.0)
        silent = found()["slurm controller"]
        assert silent.status == "missing" and "slurmctld" in silent.fix
    finally:
        slurm.revive("controller")
        wait_for(lambda: slurm.ask("sinfo", "--noheader"))
        slurm.ask("scancel", f"--user={os.getuid()}")  # what was cancelled just before is forgotten with the controller
