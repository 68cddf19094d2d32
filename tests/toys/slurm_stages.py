"""Toy stages on a real Slurm: fixtures of a cluster, of stages, and drivers that can be watched. Taken by name."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import toy_parts
import toy_ranks
import toy_stages
from fixtures import TOYS
from slurm_cluster import Cluster

from stepvideo import job
from stepvideo.artifact import Store, key_of
from stepvideo.config import dump, load
from stepvideo.fingerprint import fingerprint
from stepvideo.sink import read_events
from stepvideo.stage import InputRef, StageSpec, kind, resolve
from stepvideo.storage import read_json
from tasks.slurm import Slurm
from tasks.slurm_config import SlurmConfig
from tasks.slurm_queue import RECORD, squeue
from tasks.stages import Outcome, run_stage


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    cluster = Cluster(tmp_path_factory.mktemp("slurm"))
    yield cluster
    cluster.stop()


@pytest.fixture
def clients(slurm: Cluster, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Clients of this cluster; whatever a test does, it leaves no job."""
    monkeypatch.setenv("SLURM_CONF", str(slurm.conf))
    monkeypatch.setenv("STEPVIDEO_KINDS", f"{toy_stages.KINDS};{toy_parts.KINDS};{toy_ranks.KINDS}")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(TOYS), str(TOYS.parents[1])]))
    monkeypatch.setenv(job.EXPECT_CODE, "1")
    yield
    try:
        wait_for(lambda: not slurm.ask("squeue", "--noheader", "--states=PENDING,RUNNING"), timeout=30)
    finally:
        slurm.ask("scancel", "--user=root")


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
    """Of the artifact as this machine makes it."""
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


def steps_twice(directory: Path) -> int:
    """How many steps were done more than once."""
    done = [e["step"] for e in read_events(directory / "events.jsonl")[0] if e.get("type") == "metrics"]
    return len(done) - len(set(done))


def wait_for(what: Callable[[], Any], alive: Callable[[], bool] = lambda: True, timeout: float = 60) -> None:
    deadline = time.monotonic() + timeout
    while not what():
        if time.monotonic() > deadline or not alive():
            raise AssertionError(f"in vain; Slurm has {squeue()}")
        time.sleep(0.05)
