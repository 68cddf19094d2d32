"""Streamed training under a driver, on Slurm, with an ablation beside it, and with many deaths: the cache's bytes."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest
import streamed_run
from killed_stages import Forks, finished
from slurm_cluster import missing
from slurm_stages import clients, slurm, wait_for  # noqa: F401
from streamed_run import Producers, prepare

from stepvideo import storage
from stepvideo.data.draw import rng
from stepvideo.job import EXPECT_CODE
from stepvideo.sink import read_events
from stepvideo.stage import StageSpec
from tasks.launch import Local
from tasks.producers import producers
from tasks.slurm import Slurm
from tasks.slurm_config import SlurmConfig
from tasks.stages import run_stage

pytestmark = pytest.mark.soak
KILLS = 12


@pytest.fixture(scope="module")
def inputs(tmp_path_factory, tiny_models):
    return streamed_run.make_inputs(tmp_path_factory.mktemp("inputs"), tiny_models)


@pytest.fixture(scope="module")
def whole(inputs, tmp_path_factory):
    """The files of the stage from the cache."""
    return finished(prepare(inputs["cached"], tmp_path_factory.mktemp("cached")))


def test_two_ranks_get_the_packs_that_the_plan_gives_them(inputs, tmp_path):
    """What leads to the same bytes: a rank's own loss of a step, and the ranks' additions, are those of the cache."""
    here = finished(prepare(inputs["cached"], tmp_path / "cached", nproc=2))
    stage = prepare(inputs["streamed"], tmp_path / "streamed", nproc=2)
    with Producers(stage, "a"):
        assert finished(stage) == here


def test_an_ablation_is_served_by_the_same_producer_without_encoding_again(inputs, whole, tmp_path):
    feed = {"folder": str(tmp_path / "feed")}
    first = prepare(inputs["streamed"], tmp_path / "first", feed=feed)
    second = prepare(inputs["streamed"], tmp_path / "second", "ablation", 1e-3, feed=feed)
    other = finished(prepare(inputs["cached"], tmp_path / "cached", lr=1e-3))
    with Producers(first, "a") as made:
        jobs = [Forks(first), Forks(second)]
        assert [code for job in jobs for code in job.codes()] == [0, 0]
        time.sleep(0.5)
        said = made.said("a")
    assert storage.checksums(first / "out") == whole
    assert storage.checksums(second / "out") == other != whole
    batches = len(list((inputs["streamed"]["curate"]).glob("*"))) // 4 + 4
    assert said["batches"] <= batches, f"{said['batches']} batches were encoded, there are {batches} at most"
    print(f"two jobs, one producer: {said['batches']:.0f} batches encoded, {said['sent']:.0f} packs sent")


def test_many_deaths(inputs, whole, tmp_path):
    """Producers and the job die in an order drawn from a seed; claims, pipes and checkpoints survive them."""
    stage, draw, jobs = prepare(inputs["streamed"], tmp_path), rng(0, "deaths"), 0
    with Producers(stage, "a", "b") as made:
        training = Forks(stage)
        for _ in range(KILLS):
            time.sleep(draw.uniform(0.2, 1.5))
            if training.ended():
                break
            name = ("a", "b", "job")[draw.integers(3)]
            if name == "job":
                training.kill()
                training.codes()
                training, jobs = Forks(stage), jobs + 1
            else:
                made.jobs[name].kill()
                made.jobs[name].codes()
                made.start(name)
        assert training.codes() == [0]
    assert storage.checksums(stage / "out") == whole
    print(f"the job died {jobs} times")


def drive(stage: Path, launcher, meddle) -> None:
    """Run a stage as the driver does, with its producers; `meddle` while it runs."""
    spec = StageSpec.read(stage / "spec.json")
    (listener,) = producers([spec.config], launcher, None)
    failed: list[BaseException] = []

    def run() -> None:
        try:
            run_stage(spec, launcher, listener, grace_s=5)
        except BaseException as e:
            failed.append(e)

    driver = threading.Thread(target=run)
    driver.start()
    meddle(driver.is_alive)
    driver.join(300)
    assert not driver.is_alive() and not failed, failed


def started(stage: Path) -> list[dict]:
    return [e for e in read_events(stage / "producers" / "events.jsonl")[0] if e["name"] == "started"]


def test_the_driver_restarts_producers_and_leaves_none(inputs, whole, tmp_path, monkeypatch):
    import os
    import signal

    monkeypatch.setenv(EXPECT_CODE, "1")
    stage = prepare(inputs["streamed"], tmp_path, feed={"producers": 2, "most": 2}, max_attempts=1)

    def meddle(alive) -> None:
        wait_for(lambda: len(started(stage)) == 2, alive, timeout=60)
        time.sleep(2)
        os.kill(started(stage)[0]["pid"], signal.SIGKILL)
        wait_for(lambda: len(started(stage)) == 3, alive, timeout=60)

    drive(stage, Local(), meddle)
    assert storage.checksums(stage / "out") == whole
    for each in started(stage):
        with pytest.raises(ProcessLookupError):
            os.kill(each["pid"], 0)


@pytest.mark.skipif(bool(missing()), reason=missing())
def test_on_slurm_producers_run_in_the_inference_partition(slurm, clients, inputs, whole, tmp_path):  # noqa: F811
    stage = prepare(inputs["streamed"], tmp_path, feed={"producers": 2, "most": 2}, max_attempts=1)
    own = {"producer.*": {"partition": "inference"}}
    places: set[tuple[str, str]] = set()

    def meddle(alive) -> None:
        def listed() -> bool:
            for row in slurm.ask("squeue", "--noheader", "--states=RUNNING", "--format=%j %P").splitlines():
                name, partition = row.split()
                places.add((name.rsplit("-", 1)[0], partition))
            return len(places) == 2

        wait_for(listed, alive, timeout=120)

    drive(stage, Slurm(SlurmConfig(partition="training", poll_s=0.5, warn_s=50, stages=own)), meddle)
    assert places == {("t2vi", "training"), ("producer.t2vi", "inference")}
    assert storage.checksums(stage / "out") == whole
    wait_for(lambda: not slurm.ask("squeue", "--noheader", "--states=PENDING,RUNNING"), timeout=120)
