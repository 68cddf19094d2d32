"""Stages on a real Slurm: the bytes of a run on this machine, whatever happens to jobs, nodes, controller, driver."""

from __future__ import annotations

import os
import time
from typing import Any

import pytest
from slurm_cluster import missing
from slurm_stages import Driver, digest, folder, steps_twice, wait_for

from stepvideo.errors import ConfigError
from stepvideo.storage import read_json, write_json
from tasks.launchers import launcher
from tasks.ledger import Ledger
from tasks.logs import log_files
from tasks.slurm_queue import RECORD

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(missing()), reason=missing()),
    pytest.mark.usefixtures("clients"),
]


def test_a_cascade_over_two_partitions_has_the_digests_of_this_machine(slurm, mini) -> None:
    here = mini.run(f"store={mini.folder / 'here'}")
    parts = "cluster.slurm.stages={fit: {partition: training, gpus_per_node: 2}, score: {nodes: 1}}"
    poll = ["cluster.slurm.poll_s=0.3", "cluster.slurm.warn_s=50"]
    there = mini.run("cluster=slurm", *poll, "cluster.slurm.partition=inference", parts)
    assert {n: (r["key"], r["digest"]) for n, r in there.items()} == {
        n: (r["key"], r["digest"]) for n, r in here.items()
    }
    ran = dict(row.split("|") for row in slurm.queue("%j|%N"))
    nodes = {name.partition("-")[0]: node.rstrip("0123456789") for name, node in ran.items()}
    assert nodes == {"noise": "inference", "fit": "training", "score": "inference"}
    assert not list(mini.store.root.glob(f"*/*/{RECORD}"))
    assert mini.cli("logs", "fit", "--store", str(mini.store.root))[0] == 0


def test_a_job_that_sbatch_lost_sight_of_is_found_by_its_name(slurm, stage, tmp_path, monkeypatch) -> None:
    """The answer to sbatch is lost, and the job comes late: it is waited for, not submitted again."""
    sbatch = tmp_path / "bin" / "sbatch"
    sbatch.parent.mkdir()
    late = "(sleep 1; exec /usr/bin/sbatch $2) >/dev/null 2>&1 &"
    said = "sbatch: error: Batch job submission failed: Socket timed out on send/recv operation"
    sbatch.write_text(f"#!/bin/bash\n{late}\necho '{said}' >&2; exit 1\n")
    sbatch.chmod(0o755)
    monkeypatch.setenv("PATH", f"{sbatch.parent}:{os.environ['PATH']}")
    expected, before = digest(stage("here")), len(slurm.queue())
    outcome = Driver(stage("there")).outcome()
    assert outcome.artifact.digest == expected and outcome.attempts == 1 and len(slurm.queue()) - before == 1


def test_an_id_that_slurm_gave_to_another_job_is_not_believed(slurm, stage) -> None:
    """A controller that is killed at once after it took a job forgets it, and its id with it."""
    other = slurm.ask("sbatch", "--parsable", "--wait", "--output=/dev/null", "--wrap=true").strip()
    spec = stage("there")
    write_json(folder(spec) / RECORD, submission("forgotten", other))
    expected, driver = digest(stage("here")), Driver(spec)
    outcome = driver.outcome()
    assert outcome.artifact.digest == expected and driver.starts() == 1
    assert Ledger(driver.dir).attempts[-1]["job_id"] != other


def test_a_former_clusters_job_of_the_same_id_is_not_believed(slurm, stage) -> None:
    """A cluster that was made anew counts from 1, and a former job of that number has left its results."""
    now = slurm.ask("sbatch", "--parsable", "--output=/dev/null", "--wrap=sleep 30").strip()
    spec = stage("there")
    write_json(folder(spec) / RECORD, submission("former", now))
    write_json(folder(spec) / "error.json", {"type": "RuntimeError", "message": "of the former cluster"})
    (folder(spec) / "logs").mkdir()
    (folder(spec) / "logs" / f"{now}_0_result.pkl").write_bytes(b"another result")
    driver = Driver(spec)
    outcome = driver.outcome()
    slurm.ask("scancel", now)
    assert outcome.artifact.digest == digest(stage("here")) and driver.starts() == 1


def test_an_incarnation_that_ends_after_its_requeueing_counts_once(slurm, stage) -> None:
    """It is deaf to SIGTERM and makes the artifact within KillWait; what Slurm starts again has nothing to do."""
    expected = digest(stage("here", steps=12))
    driver = Driver(stage("there", steps=12, step_s=0.2, deaf=True)).until(4)
    slurm.ask("scontrol", "requeue", dict(row.split("|") for row in slurm.queue("%j|%A"))[driver.name_of_job])
    outcome = driver.outcome()
    assert outcome.artifact.digest == expected and outcome.attempts == driver.starts() == 1


def submission(name: str, job_id: str, cancelled: bool = False) -> dict[str, Any]:
    """What a driver that died has left."""
    return {
        **{"name": name, "job_id": job_id, "cancelled": cancelled},
        **{"time": time.time(), "offset": 0, "timeout_s": 0},
    }


def test_what_a_dead_driver_had_to_cancel_the_next_one_cancels(slurm, stage) -> None:
    options = ["--parsable", "--job-name=unwanted", "--begin=now+1hour", "--output=/dev/null", "--wrap=true"]
    spec = stage("there")
    write_json(folder(spec) / RECORD, submission("unwanted", slurm.ask("sbatch", *options).strip(), cancelled=True))
    assert Driver(spec).outcome().attempts == 1
    assert "unwanted|CANCELLED" in slurm.queue("%j|%T")


def test_a_job_whose_driver_did_not_live_to_see_its_artifact_is_let_go(slurm, stage) -> None:
    options = ["--parsable", "--job-name=requeued", "--begin=now+1hour", "--output=/dev/null", "--wrap=true"]
    spec = stage("there")
    digest(spec)
    write_json(folder(spec) / RECORD, submission("requeued", slurm.ask("sbatch", *options).strip()))
    assert Driver(spec).outcome().cached and not (folder(spec) / RECORD).exists()
    assert "requeued|CANCELLED" in slurm.queue("%j|%T")


def test_a_killed_controller_comes_back(slurm, stage) -> None:
    """It may know nothing of a young job, or start it again; one that it knows well is not disturbed."""
    expected = digest(stage("here", steps=64)), digest(stage("here", steps=41))
    old = Driver(stage("there", steps=64, step_s=0.2)).until(26)
    young = Driver(stage("there", steps=41, step_s=0.1)).until(1)
    slurm.kill("controller")
    time.sleep(2)
    alive = old.is_alive(), young.is_alive()
    slurm.revive("controller")
    assert alive == (True, True)
    first, second = old.outcome(), young.outcome()
    slurm.resume()  # a node that could not start a job a second time is out of service
    assert (first.artifact.digest, second.artifact.digest) == expected
    assert (
        first.attempts == 1 and old.starts() == 1 and second.attempts == young.starts() and steps_twice(young.dir) <= 1
    )


def test_what_slurm_takes_away_goes_on_where_it_stopped(slurm, stage) -> None:
    """By `scontrol requeue`, for a job of a higher tier, since its node is dead, since one of its two nodes is."""
    expected = digest(stage("here", steps=40))
    places = {"requeued": "training1", "preempted": "training0", "orphaned": "inference1"}
    ranks = stage("halved", "toy-ranks", runtime={"nproc": 2, "max_attempts": 1})
    hold = folder(ranks) / "work" / "hold"
    hold.parent.mkdir()
    hold.touch()  # its second node dies in its third step, however late that is
    halved = Driver(ranks, partition="inference", nodes=2).until(1)
    drivers = {
        what: Driver(stage(what, steps=40, step_s=0.2), partition=node[:-1], extra={"nodelist": node})
        for what, node in places.items()
    }
    for driver in drivers.values():
        driver.until(4)
    slurm.kill("inference1")
    hold.unlink()
    urgent = ["--partition=urgent", "--nodelist=training0", "--exclusive", "--output=/dev/null", "--wrap=sleep 1"]
    slurm.ask("sbatch", *urgent)
    ids = dict(row.split("|") for row in slurm.queue("%j|%A"))
    slurm.ask("scontrol", "requeue", ids[drivers["requeued"].name_of_job])
    # rank 0 has lost the other, and says so, long before Slurm knows of the node
    wait_for(lambda: (halved.dir / "error.json").exists())
    assert halved.is_alive() and "down" not in slurm.state("inference1")
    wait_for(lambda: "down" in slurm.state("inference1"))
    slurm.revive("inference1")
    for what, driver in drivers.items():
        outcome = driver.outcome()
        # a preempted job may use its grace time to save its state and end: then it is the driver that submits it again
        assert outcome.artifact.digest == expected and outcome.attempts <= 1 + (what == "preempted"), what
        assert driver.starts() == 2 and steps_twice(driver.dir) <= 1, what
    outcome = halved.outcome()
    assert outcome.artifact.metrics == {"ranks": 2, "nodes": 2}
    assert halved.starts() == 2 and steps_twice(halved.dir) <= 1
    history = read_json(outcome.artifact.out / "model.json")["history"]
    assert history == [0.0, *(1.5 * (i + 1) for i in range(8))]


def test_a_job_array_on_slurm(slurm, stage) -> None:
    expected = digest(stage("here", "toy-parts", runtime={"workers": 1}))
    driver = Driver(stage("there", "toy-parts", runtime={"array": 2, "workers": 1}))
    assert driver.outcome().artifact.digest == expected
    assert [e for p, e in log_files(driver.dir).items() if p.suffix == ".out"] == ["0", "1"]


def test_what_slurm_refuses_is_said(stage, monkeypatch) -> None:
    for given, said in (
        ({"partition": "trainig"}, r"Slurm refused .*invalid partition specified: trainig"),
        ({"gpus_per_node": 9}, "Slurm refused .*Requested node configuration is not available"),
        ({"nodes": 2}, r"runtime.nproc=1 ranks, which 2 nodes cannot share evenly"),
    ):
        spec = stage("there")
        with pytest.raises(ConfigError, match=said):
            Driver(spec, **given).outcome()
        assert not (folder(spec) / RECORD).exists()
    with monkeypatch.context() as nowhere, pytest.raises(ConfigError, match="there is no sbatch; try cluster=local"):
        nowhere.setenv("PATH", "")
        launcher("slurm")
