"""Stages on a real Slurm: the bytes of a run on this machine, whatever happens to jobs, nodes, controller, driver."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import toy_parts
import toy_stages
from fixtures import TOYS, mini  # noqa: F401
from slurm_cluster import Cluster, missing

from stepvideo import job
from stepvideo.artifact import Store, is_running, key_of
from stepvideo.config import dump, load
from stepvideo.errors import ConfigError, StageFailed
from stepvideo.fingerprint import fingerprint
from stepvideo.sink import read_events
from stepvideo.stage import InputRef, StageSpec, kind, resolve
from stepvideo.storage import read_json, write_json
from tasks.launchers import launcher
from tasks.ledger import Ledger
from tasks.slurm import RECORD, Slurm
from tasks.slurm_config import SlurmConfig
from tasks.slurm_queue import _squeue
from tasks.stages import Cancelled, Outcome, run_stage

pytestmark = [pytest.mark.slow, pytest.mark.skipif(bool(missing()), reason=missing())]
POLL = "cluster.slurm.poll_s=0.3"


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    cluster = Cluster(tmp_path_factory.mktemp("slurm"))
    yield cluster
    cluster.stop()


@pytest.fixture(autouse=True)
def environment(slurm: Cluster, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Clients of this cluster; whatever a test does, it leaves no job."""
    monkeypatch.setenv("SLURM_CONF", str(slurm.conf))
    monkeypatch.setenv("STEPVIDEO_KINDS", f"{toy_stages.KINDS};{toy_parts.KINDS}")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(TOYS), str(TOYS.parents[1])]))
    monkeypatch.setenv(job.EXPECT_CODE, "1")
    yield
    wait_for(lambda: not slurm.ask("squeue", "--noheader", "--states=PENDING,RUNNING"), timeout=10)


@pytest.fixture
def stage(tmp_path: Path) -> Callable[..., StageSpec]:
    """stage(store, kind of stage, config) → what is to be made; toy-fit has its data."""

    def make(store: str, what: str = "toy-fit", **config: Any) -> StageSpec:
        kept = Store(tmp_path / store)
        inputs = {}
        if what == "toy-fit":
            data = make(store, "toy-noise", count=32)
            assert job.main(kept.dir(data.stage, data.key)) == 0
            artifact = kept.find(data.stage, data.key)
            assert artifact
            inputs["data"] = InputRef(data.stage, data.key, artifact.digest)
        typed = dump(load(resolve(kind(what).config), config))
        spec = StageSpec(what, what, "", typed, inputs, str(kept.root), fingerprint(kind(what).run.split(":")[0]))
        spec.key = key_of(spec.hashed())
        spec.write(folder(spec) / "spec.json")
        return spec

    return make


def folder(spec: StageSpec) -> Path:
    return Store(spec.store).dir(spec.stage, spec.key)


def digest(spec: StageSpec) -> str:
    """Of the artifact as this process makes it."""
    assert job.main(folder(spec)) == 0
    return read_json(folder(spec) / "manifest.json")["digest"]


class Driver(threading.Thread):
    """Brings a stage to its artifact, or to what it raised."""

    def __init__(self, spec: StageSpec, **slurm: Any) -> None:
        super().__init__(daemon=True)
        self.spec, self.dir, self.cancel = spec, folder(spec), threading.Event()
        self.slurm = Slurm(SlurmConfig(**{"poll_s": 0.3, "warn_s": 50, **slurm}))
        self.result: Outcome | BaseException | None = None
        self.start()

    def run(self) -> None:
        try:
            self.result = run_stage(self.spec, self.slurm, grace_s=5, cancel=self.cancel)
        except BaseException as e:
            self.result = e

    def until(self, step: int) -> Driver:
        """Until the job has logged that step."""
        wait_for(lambda: any(e.get("step") == step for e in read_events(self.dir / "events.jsonl")[0]), self.is_alive)
        return self

    def outcome(self) -> Outcome:
        self.join(60)
        if isinstance(self.result, BaseException):
            raise self.result
        assert self.result, "it did not end"
        return self.result

    @property
    def name_of_job(self) -> str:
        return read_json(self.dir / RECORD)["name"]

    def starts(self) -> int:
        return sum(e.get("name") == "attempt_started" for e in read_events(self.dir / "events.jsonl")[0])


def results(rows: dict[str, dict[str, Any]]) -> dict[str, Any]:
    return {name: (row["key"], row["digest"], row["metrics"]) for name, row in rows.items()}


def wait_for(what: Callable[[], Any], alive: Callable[[], bool] = lambda: True, timeout: float = 60) -> None:
    deadline = time.monotonic() + timeout
    while not what():
        if time.monotonic() > deadline or not alive():
            raise AssertionError(f"in vain; Slurm has {_squeue()}")
        time.sleep(0.05)


def test_a_cascade_over_two_partitions_has_the_digests_of_this_machine(slurm, mini) -> None:  # noqa: F811
    here = mini.run(f"store={mini.folder / 'here'}")
    parts = "cluster.slurm.stages={fit: {partition: training, gpus_per_node: 2}, score: {nodes: 1}}"
    there = mini.run("cluster=slurm", POLL, "cluster.slurm.partition=inference", parts, "cluster.slurm.warn_s=50")
    assert {n: (r["key"], r["digest"]) for n, r in there.items()} == {
        n: (r["key"], r["digest"]) for n, r in here.items()
    }
    ran = dict(row.split("|") for row in slurm.queue("%j|%N"))
    nodes = {name.partition("-")[0]: node.rstrip("0123456789") for name, node in ran.items()}
    assert nodes == {"noise": "inference", "fit": "training", "score": "inference"}
    assert not list(mini.store.root.glob(f"*/*/{RECORD}"))
    assert mini.cli("logs", "fit", "--store", str(mini.store.root))[0] == 0


def test_a_killed_driver_is_succeeded_and_nothing_is_submitted_twice(slurm, mini) -> None:  # noqa: F811
    settings = ("cluster=slurm", POLL, "stages.fit.step_s=0.2")
    undisturbed = mini.run(f"store={mini.folder / 'here'}", *settings[2:], "cluster=debug")
    before = len(slurm.queue())
    first = mini.process(*settings)
    mini.wait_for_step("fit", 2)
    first.kill()
    first.wait()
    rows = mini.finish(mini.process(*settings))
    assert results(rows) == results(undisturbed)
    assert len(slurm.queue()) - before == 3 and rows["noise"]["cached"]


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


def test_an_admins_scancel_is_respected(slurm, stage) -> None:
    expected = digest(stage("here"))
    driver = Driver(stage("there", step_s=0.1)).until(4)
    jobs = len(slurm.queue())
    slurm.ask("scancel", f"--name={driver.name_of_job}")
    with pytest.raises(StageFailed, match="was cancelled in Slurm, not by its driver.*the same command"):
        driver.outcome()
    assert len(slurm.queue()) == jobs and not (driver.dir / RECORD).exists()
    again = Driver(driver.spec).outcome()
    assert again.artifact.digest == expected and steps_twice(driver.dir) <= 1


def steps_twice(directory: Path) -> int:
    """How many steps were done more than once."""
    done = [e["step"] for e in read_events(directory / "events.jsonl")[0] if e.get("type") == "metrics"]
    return len(done) - len(set(done))


@pytest.mark.parametrize("waiting", [False, True])
def test_a_cancelled_driver_leaves_no_job(slurm, stage, waiting: bool) -> None:
    held = {"extra": {"begin": "now+1hour"}} if waiting else {}
    driver = Driver(stage("there", step_s=0.1), **held)
    if waiting:
        wait_for(lambda: (driver.dir / RECORD).exists() and driver.name_of_job in slurm.queue())
    else:
        driver.until(4)
    name, started = driver.name_of_job, time.monotonic()
    driver.cancel.set()
    with pytest.raises(Cancelled):
        driver.outcome()
    assert time.monotonic() - started < 5
    states = dict(row.split("|") for row in slurm.queue("%j|%T"))
    assert states[name] not in ("PENDING", "RUNNING", "COMPLETING") and not is_running(driver.dir)


def test_a_killed_controller_comes_back(slurm, stage) -> None:
    """It may know nothing of a young job, or start it again; one that it knows well is not disturbed."""
    expected = digest(stage("here", steps=48)), digest(stage("here", steps=21))
    old = Driver(stage("there", steps=48, step_s=0.2)).until(26)
    young = Driver(stage("there", steps=21, step_s=0.1)).until(1)
    slurm.kill("controller")
    time.sleep(2)
    assert old.is_alive() and young.is_alive()
    slurm.revive("controller")
    first, second = old.outcome(), young.outcome()
    slurm.resume()  # a node that could not start a job a second time is out of service
    assert (first.artifact.digest, second.artifact.digest) == expected
    assert (
        first.attempts == 1 and old.starts() == 1 and second.attempts == young.starts() and steps_twice(young.dir) <= 1
    )


def test_what_slurm_takes_away_goes_on_where_it_stopped(slurm, stage) -> None:
    """By `scontrol requeue`, for a job of a higher tier, and since its node is dead."""
    expected = digest(stage("here", steps=40))
    places = {"requeued": "inference0", "preempted": "training0", "orphaned": "training1"}
    drivers = {
        what: Driver(stage(what, steps=40, step_s=0.2), partition=node[:-1], extra={"nodelist": node})
        for what, node in places.items()
    }
    for driver in drivers.values():
        driver.until(4)
    slurm.kill("training1")
    urgent = ["--partition=urgent", "--nodelist=training0", "--exclusive", "--output=/dev/null", "--wrap=sleep 1"]
    slurm.ask("sbatch", *urgent)
    ids = dict(row.split("|") for row in slurm.queue("%j|%A"))
    slurm.ask("scontrol", "requeue", ids[drivers["requeued"].name_of_job])
    wait_for(lambda: "down" in slurm.ask("sinfo", "-hn", "training1"))
    slurm.revive("training1")
    for what, driver in drivers.items():
        outcome = driver.outcome()
        # a preempted job may use its grace time to save its state and end: then it is the driver that submits it again
        assert outcome.artifact.digest == expected and outcome.attempts <= 1 + (what == "preempted"), what
        assert driver.starts() == 2 and steps_twice(driver.dir) <= 1, what


def test_a_job_array_on_slurm(slurm, stage) -> None:
    expected = digest(stage("here", "toy-parts", runtime={"workers": 1}))
    driver = Driver(stage("there", "toy-parts", runtime={"array": 3, "workers": 1}))
    assert driver.outcome().artifact.digest == expected
    assert len(list((driver.dir / "logs").glob("attempt-1.*.out"))) == 3


def test_ranks_over_two_nodes(slurm, stage) -> None:
    driver = Driver(stage("there", runtime={"nproc": 2}), nodes=2, partition="inference")
    assert driver.outcome().artifact.metrics["ranks"] == 2


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
