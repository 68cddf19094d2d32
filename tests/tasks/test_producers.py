"""The driver's side of producers: started with their stage, restarted, given up, more and fewer, ended with it."""

from __future__ import annotations

import json
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from stepvideo.data.feed import Feed
from stepvideo.data.feed_rates import Told
from stepvideo.sink import read_events
from stepvideo.stage import StageSpec
from tasks import producers as module
from tasks.launch import Debug, Local
from tasks.ledger import Ledger
from tasks.producers import Producers, producers


class Job:
    """A producer that lives until somebody ends it."""

    def __init__(self, directory: Path) -> None:
        self.directory, self.code = directory, None
        self.ids = {"pid": 1}

    def poll(self):
        return self.code

    def stop(self, grace_s: float) -> None:
        self.code = 0 if self.code is None else self.code


class Jobs:
    """A launcher of such jobs."""

    name = "jobs"

    def __init__(self) -> None:
        self.started: list[Job] = []
        self.attached: list[Job] = []
        self.error: dict | None = None  # what each that is started dies of

    def attach(self, stage_dir, ids):
        return next((j for j in self.started if j.directory == stage_dir and j.code is None), None)

    def submit(self, stage_dir, number, timeout_s):
        job = Job(stage_dir)
        if self.error is not None:
            job.code = 1
            (stage_dir / "error.json").write_text(json.dumps(self.error))
        self.started.append(job)
        return job

    @property
    def living(self) -> list[str]:
        return sorted(j.directory.name for j in self.started if j.code is None)


@pytest.fixture
def stage(tmp_path) -> StageSpec:
    feed = {"producers": 1, "most": 3, "lease_s": 5.0}
    config = {"seed": 0, "runtime": {"data": "streamed", "threads": 1, "device": "cpu", "feed": feed}}
    (tmp_path / "t2vi" / "k" / "work").mkdir(parents=True)
    return StageSpec("t2vi", "train", "k", config, {}, str(tmp_path), "code")


@pytest.fixture
def jobs(monkeypatch) -> Jobs:
    monkeypatch.setattr(module, "POLL_S", 0.01)
    return Jobs()


def until(condition) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


def home(stage: StageSpec) -> Path:
    return Path(stage.store) / "t2vi" / "k"


def test_producers_live_as_long_as_their_stage_and_are_started_again(stage, jobs):
    listener = Producers(jobs, "code")
    listener.started(stage, SimpleNamespace(), False)
    until(lambda: jobs.living == ["p1"])
    spec = StageSpec.read(jobs.started[0].directory / "spec.json")
    assert (spec.stage, spec.kind, spec.config["name"]) == ("producer.t2vi", "produce", "t2vi-k-p1")
    assert spec.config["folder"] == str(home(stage) / "work" / "feed")
    jobs.started[0].code = -9
    until(lambda: len(jobs.started) == 2 and jobs.living == ["p1"])
    jobs.started[1].code = 0  # preempted, it ends well
    until(lambda: len(jobs.started) == 3 and jobs.living == ["p1"])
    listener.ended(stage, None, None)
    assert jobs.living == []
    said = [e["name"] for e in read_events(home(stage) / "producers" / "events.jsonl")[0]]
    assert said == ["started", "ended", "started", "ended", "started"]


def test_a_new_driver_finds_the_producers_of_the_last(stage, jobs):
    first = Producers(jobs, "code")
    first.started(stage, SimpleNamespace(), False)
    until(lambda: jobs.living == ["p1"])
    second = Producers(jobs, "code")
    second.started(stage, SimpleNamespace(), True)
    time.sleep(0.1)
    assert len(jobs.started) == 1
    second.ended(stage, None, None)
    assert jobs.living == []
    (home(stage) / "work" / "feed").rename(home(stage) / "away")  # the first driver is dead; here it is not
    first.ended(stage, None, None)


def test_a_new_driver_ends_all_that_the_last_had(stage, jobs):
    for name in ("p1", "p3"):
        directory = home(stage) / "producers" / name
        directory.mkdir(parents=True)
        Ledger(directory).begin_attempt(launcher="jobs", started=0.0)
        jobs.submit(directory, 1, 0.0)
    stage.config["runtime"]["feed"]["most"] = 1
    listener = Producers(jobs, "code")
    listener.started(stage, SimpleNamespace(), True)
    until(lambda: jobs.living == ["p1"])
    assert len(jobs.started) == 2, "nobody was started beside those that live"
    listener.ended(stage, None, None)
    assert jobs.living == []


def test_on_slurm_a_job_without_producers_of_its_own_has_the_keys_of_the_folder_too(stage, jobs, tmp_path):
    jobs.name = "slurm"
    stage.config["runtime"]["feed"] |= {"producers": 0, "most": 0, "folder": str(tmp_path / "met"), "keys": ""}
    paths = []
    for _ in range(2):  # two drivers
        stage.config["runtime"]["feed"]["keys"] = ""
        Producers(jobs, "code").started(stage, SimpleNamespace(), False)
        paths.append(Path(stage.config["runtime"]["feed"]["keys"]))
    assert paths == [tmp_path / "met" / "keys"] * 2 and paths[0].stat().st_mode & 0o777 == 0o600
    assert jobs.started == [] and not list(paths[0].parent.glob(".keys*"))


def test_training_is_told_when_producers_cannot_live(stage, jobs):
    jobs.error = {"user": False, "message": "no GPU"}
    listener, feed = Producers(jobs, "code"), Feed(home(stage) / "work" / "feed", 5.0)
    feed.fail("of an earlier run")
    listener.started(stage, SimpleNamespace(), False)
    until(lambda: "producer 1: no GPU (log: " in feed.failure())
    assert len(jobs.started) == module.FAILURES
    listener.ended(stage, None, None)


def test_their_number_follows_the_rates(stage, jobs, monkeypatch):
    waits, idle = 0.5, 0.0

    class Rates:
        def update(self, wishes, makers):
            return Told(1.0, waits, idle, 1, len(jobs.living), "", 0)

    monkeypatch.setattr(module, "Rates", Rates)
    listener = Producers(jobs, "code")
    listener.started(stage, SimpleNamespace(), False)
    until(lambda: jobs.living == ["p1", "p2", "p3"])
    waits, idle = 0.0, 0.9
    until(lambda: jobs.living == ["p1"])
    waits, idle = 0.5, 0.0
    until(lambda: jobs.living == ["p1", "p2", "p3"])
    listener.ended(stage, None, None)
    told = [e for e in read_events(home(stage) / "producers" / "events.jsonl")[0] if e["name"] == "rates"]
    assert {e["wanted"] for e in told} == {1, 2, 3} and told[0]["training_waits"] == 0.5


def test_none_for_stages_that_read_themselves_and_none_where_another_job_has_them(stage, jobs):
    config = stage.config
    assert producers([{"runtime": {"data": "own"}}, {}], jobs, None) == []
    (listener,) = producers([{}, config], Debug(), Path("code"))
    assert isinstance(listener._launcher, Local), "a debug run has no room for them in its process"
    config["runtime"]["feed"] |= {"producers": 0, "most": 0}
    (listener,) = producers([config], jobs, None)
    listener.started(stage, SimpleNamespace(), False)
    listener.ended(stage, None, None)
    assert jobs.started == []


def test_a_stage_that_ended_has_its_producers_no_more(stage, jobs):
    listener = Producers(jobs, "code")
    listener.started(stage, SimpleNamespace(), False)
    until(lambda: jobs.living == ["p1"])
    feed = home(stage) / "work" / "feed"
    feed.rename(feed.with_name("removed"))
    time.sleep(0.05)
    jobs.started[0].code = 0
    time.sleep(0.1)
    assert len(jobs.started) == 1
    listener.ended(stage, None, None)
