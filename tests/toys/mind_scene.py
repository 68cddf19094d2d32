"""Faults put into jobs on a real Slurm, with agents on its nodes, and how long StepMind took over each.

Six jobs at a time: one hangs, one crashes, one is on a node that gets slow, one seems idle to its node's agent and is
not, one is cancelled by an administrator, one loses its node. Times begin when the fault is put in.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from fixtures import TOYS
from slurm_cluster import Cluster
from slurm_stages import Driver, wait_for

from stepvideo import job, storage
from stepvideo.artifact import Store, key_of
from stepvideo.config import dump
from stepvideo.fingerprint import fingerprint
from stepvideo.mind.inject import INJECT
from stepvideo.sink import read_events
from stepvideo.stage import StageSpec
from tasks.ledger import Ledger
from tasks.mind_acts import FOLDER, decisions
from tasks.slurm_queue import Job, squeue

POLICY = {"degraded_s": 3.0, "tolerance": {"floor_s": 10.0}}
NODES = ("training0", "training1", "inference0", "inference1")
STEPS = {"hang": 40, "crash": 40, "slow": 100, "misled": 100, "cancelled": 60, "dead": 40}
PLACE = {"dead": "inference"}  # partition; else training
STEP_S = 0.2
LEARN = 28  # steps before anything goes wrong
RESTARTED = ("hang", "crash", "slow", "dead")


def environment(cluster: Cluster) -> dict[str, str]:
    """Of drivers and of what they start."""
    return {
        "SLURM_CONF": str(cluster.conf),
        "STEPVIDEO_KINDS": "toy-work=toy_work:work,toy_work:WorkConfig",
        "PYTHONPATH": os.pathsep.join([str(TOYS), str(TOYS.parents[1])]),
        job.EXPECT_CODE: "1",
    }


def work(store: Path, **config: Any) -> StageSpec:
    """A stage that is to be made."""
    from toy_work import WorkConfig

    spec = StageSpec("toy-work", "toy-work", "", dump(WorkConfig(**config)), {}, str(store), fingerprint("toy_work"))
    spec.key = key_of(spec.hashed())
    spec.write(Store(store).dir(spec.stage, spec.key) / "spec.json")
    return spec


class Scene:
    """Agents of the nodes of a cluster that watch over a store, as long as it is open."""

    def __init__(self, cluster: Cluster, store: Path) -> None:
        self.cluster, self.store, self.folder = cluster, store, store / FOLDER
        self.folder.mkdir(parents=True)
        storage.write_json(self.folder / "restarts.json", POLICY)
        self._made_up: dict[str, Any] = {}
        self._agents = {node: self._agent(node) for node in NODES}
        wait_for(lambda: all((self.folder / "agents" / f"{node}.json").exists() for node in NODES))

    def __enter__(self) -> Scene:
        return self

    def __exit__(self, *_: object) -> None:
        for agent in self._agents.values():
            agent.kill()
            agent.wait()

    def make_up(self, node: str, **changes: Any) -> None:
        """What the agent of a node says instead of what it sees."""
        self._made_up.setdefault(node, {}).update(changes)
        storage.write_json(self.folder / "inject.json", self._made_up)

    def power_cut(self, node: str) -> None:
        self._agents[node].kill()
        self.cluster.kill(node)

    def run(self) -> tuple[dict[str, Driver], dict[str, float]]:
        """Drivers by what goes wrong, ended, and when it did (s since 1970)."""
        drivers = {}
        for what, steps in STEPS.items():
            save = {"save_every": 1000} if what in ("misled", "crash") else {}  # else it may leave the slow node, too
            spec = work(self.store, steps=steps, step_s=STEP_S, name=what, **save)
            drivers[what] = Driver(spec, partition=PLACE.get(what, "training"))
        for driver in drivers.values():
            driver.until(LEARN)
        at = self._faults(drivers)
        for driver in drivers.values():
            driver.join(90)
        return drivers, at

    def _faults(self, drivers: dict[str, Driver]) -> dict[str, float]:
        jobs = {what: job_of(driver) for what, driver in drivers.items()}
        at = {"crash": time.time()}
        os.kill(pid(drivers["crash"]), signal.SIGKILL)
        at["hang"] = time.time()
        os.kill(pid(drivers["hang"]), signal.SIGSTOP)
        at["slow"] = at["misled"] = time.time()
        idle = {"processes": 4, "stopped": 0, "cpu": 0.0, "io": 0.0}
        self.make_up(jobs["misled"].nodes, jobs={jobs["misled"].id: idle})
        self.make_up(jobs["slow"].nodes, gpus=[{"index": 3, "throttle": ["hw_thermal"], "temperature": 96}])
        at["cancelled"] = time.time()
        self.cluster.ask("scancel", jobs["cancelled"].id)
        at["dead"] = time.time()
        self.power_cut(jobs["dead"].nodes)
        return at

    def _agent(self, node: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "stepvideo.mind.agent", str(self.folder), "--node", node, "--inject"]
        return subprocess.Popen(command, env={**os.environ, INJECT: str(self.folder / "inject.json")})


def job_of(driver: Driver) -> Job:
    return (squeue() or {})[driver.name_of_job][0]


def pid(driver: Driver) -> int:
    return storage.read_json(driver.dir / "heartbeat.json")["pid"]


def latencies(driver: Driver, at: float) -> dict[str, float]:
    """s from the fault to the decision to restart, and from that on: for its requeue, until Slurm has started the job
    again (it tells seconds, so this is up to one too long), until the stage is at work."""
    restart = next(d for d in decisions(driver.dir) if d["action"] == "restart")
    starts = [e["time"] for e in read_events(driver.dir / "events.jsonl")[0] if e.get("name") == "attempt_started"]
    decided = restart["time"] - restart["act_s"]
    started = max(j.starts for j in (squeue() or {})[Ledger(driver.dir).attempts[-1]["job_name"]])
    after = {"requeue_s": restart["act_s"], "running_s": started + 1 - decided, "working_s": starts[1] - decided}
    return {"detect_s": decided - at, **after}
