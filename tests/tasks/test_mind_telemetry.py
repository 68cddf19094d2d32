"""A slow rank that telemetry finds has its node replaced by the watch, once a checkpoint is there."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path

import pytest
from made_scheduler import Scheduler
from made_segments import Ranks
from made_training import Fault, Made

from stepvideo.mind.decide import Action
from stepvideo.mind.settings import VARIABLE
from stepvideo.storage import write_json
from stepvideo.telemetry.schema import FOLDER as TELEMETRY
from tasks import mind_telemetry
from tasks.mind_acts import FOLDER, decisions
from tasks.mind_telemetry import Telemetry
from tasks.mind_watch import Watch
from tasks.slurm_queue import RECORD, Job

MADE = Made(16, 90, per_node=4, faults=(Fault((6,), 1.2, since=11),), run="fit/0123", stage="fit")
NODES = [f"training{i}" for i in range(4)]


def until(telemetry: Telemetry, nodes: set[str]) -> None:
    """Its thread has found exactly these."""
    ends = time.monotonic() + 60
    while set(telemetry.findings(MADE.run)) != nodes:
        assert time.monotonic() < ends, telemetry.findings(MADE.run)
        time.sleep(0.02)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mind_telemetry, "EVERY_S", 0.05)
    monkeypatch.setattr(mind_telemetry, "SHARE", 1.0)
    monkeypatch.delenv(VARIABLE, raising=False)


def test_its_node_is_replaced_after_a_checkpoint_and_the_next_attempt_is_clean(tmp_path: Path) -> None:
    directory, scheduler, now = tmp_path / "fit" / "0123", Scheduler(), time.time()
    directory.mkdir(parents=True)
    write_json(directory / RECORD, {"name": "fit-1"})
    jobs = {"fit-1": [Job("7", "RUNNING", 0, "", ",".join(NODES), starts=now)]}
    watch = Watch(tmp_path, scheduler, tmp_path / FOLDER, queue=lambda: jobs, said=print)

    def look(second: int, *more: dict) -> list[tuple[Action, tuple[str, ...]]]:
        for name in NODES:
            row = {"processes": 4, "stopped": 0, "cpu": 1.0, "io": 0.0}
            snapshot = {"node": name, "agent": "a", "seq": second, "time": 0, "jobs": {"7": row}}
            write_json(tmp_path / FOLDER / "agents" / f"{name}.json", snapshot)
        progress = {"type": "progress", "done": second, "total": 999, "unit": "step"}
        with (directory / "events.jsonl").open("a") as f:
            f.writelines(json.dumps(event) + "\n" for event in (progress, *more))
        return [(d.action, d.nodes) for d in watch.look(float(second), 0.0)]

    telemetry = watch._telemetry
    assert look(0) == []
    Ranks(tmp_path / TELEMETRY, MADE, opened=now).write(90)
    until(telemetry, {"training1"})
    decided = [d for second in range(1, 40) for d in look(second)]
    assert decided == [(Action.REPLACE, ("training1",))]
    assert look(40, {"type": "event", "name": "checkpoint"}) == [(Action.RESTART, ("training1",))]
    assert scheduler.done[-1] == ("requeue", "7", "training1") and ("drain", "training1") in scheduler.done
    assert decisions(directory)[-1]["fault"] == "SLOW_NODE" and "rank 6" in decisions(directory)[-1]["reasons"][0]

    jobs["fit-1"] = [Job("7", "RUNNING", 0, "", "training0,training2,training3,training4", starts=now + 100)]
    assert look(41) == [] and telemetry.findings(MADE.run) == {}
    Ranks(tmp_path / TELEMETRY, replace(MADE, attempt=2, faults=()), opened=now + 100).write(90)
    assert [d for second in range(42, 90) for d in look(second)] == []
    (directory / RECORD).unlink()
    watch.look(91.0, 0.0)
    assert telemetry.findings(MADE.run) == {}


def test_telemetry_that_cannot_be_read_is_told_once_and_delays_nobody(tmp_path: Path) -> None:
    said: list[str] = []
    (tmp_path / "segments").mkdir()
    (tmp_path / "segments" / "r00000-1-000001.open").mkdir()  # no file
    telemetry = Telemetry(tmp_path, said.append)
    telemetry.follow(MADE.run, 0.0)
    ends = time.monotonic() + 60
    while not said and time.monotonic() < ends:
        time.sleep(0.02)
    time.sleep(0.3)
    assert len(said) == 1 and "telemetry of fit/0123" in said[0] and telemetry.findings(MADE.run) == {}
    (tmp_path / "segments" / "r00000-1-000001.open").rmdir()
    Ranks(tmp_path, MADE).write(90)
    until(telemetry, {"training1"})
    telemetry.leave(MADE.run)
    assert telemetry.findings(MADE.run) == {}
