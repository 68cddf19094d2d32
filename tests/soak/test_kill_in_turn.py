"""A mini-cascade on a real Slurm, with Prefect and MLflow servers of its own; each of those that it needs is killed, at
a moment drawn from a seed. A service starts the driver again; the digests are those of an undisturbed run.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from fixtures import TOYS
from mini import Mini
from slurm_cluster import Cluster, missing
from slurm_stages import wait_for

from stepvideo.artifact import is_running
from stepvideo.storage import read_json

pytestmark = [pytest.mark.soak, pytest.mark.skipif(bool(missing()), reason=missing())]
VICTIMS = ("rank", "node", "slurmd", "slurmctld", "driver", "prefect", "mlflow", "requeue", "preemption")
SEED = int(os.environ.get("STEPVIDEO_SOAK_SEED", "7"))
STARTS = 5  # of the driver, at most
SETTINGS = ["cluster=slurm", "cluster.snapshot=false", "cluster.slurm.poll_s=1", "cluster.slurm.warn_s=50"]
SETTINGS += ["tracking=local", "register=false", "runtime.max_attempts=2"]
FIT = ["graph=toy_ranks", "stages.fit.steps=60", "stages.fit.runtime={nproc: 2, threads: 1}"]
SETTINGS += ["cluster.slurm.stages={fit: {nodes: 2, partition: training}}"]


class Server:
    """A process that is started again on the same port and folder."""

    def __init__(self, folder: Path, command: list[str], ready: str) -> None:
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            self.port = s.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._folder, self._command, self._ready = folder, [c.format(port=self.port) for c in command], ready
        self.start()

    def start(self) -> None:
        with (self._folder / "server.log").open("ab") as log:
            self.process = subprocess.Popen(
                self._command, cwd=TOYS.parents[1], stdout=log, stderr=log, start_new_session=True
            )
        wait_for(self._answers, lambda: self.process.poll() is None, timeout=180)

    def kill(self) -> None:
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def _answers(self) -> bool:
        with contextlib.suppress(httpx.HTTPError):
            return httpx.get(self.url + self._ready).status_code == 200
        return False


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    made = Cluster(tmp_path_factory.mktemp("slurm"))
    yield made
    made.stop()


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Server]]:
    home = tmp_path_factory.mktemp("servers")
    os.environ |= {"PREFECT_HOME": str(home / ".prefect"), "PREFECT_SERVER_ANALYTICS_ENABLED": "false"}
    os.environ["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] = "false"  # its eight processes
    app = "prefect.server.api.server:create_app"
    mlflow = ["-m", "mlflow", "server", "--port", "{port}", "--workers", "1"]
    mlflow += ["--backend-store-uri", f"sqlite:///{home / 'mlflow.db'}", "--artifacts-destination", str(home / "files")]
    made = {
        "prefect": Server(home, [sys.executable, "-m", "uvicorn", "--factory", app, "--port", "{port}"], "/api/health"),
        "mlflow": Server(home, [sys.executable, *mlflow], "/health"),
    }
    yield made
    for server in made.values():
        server.kill()


@pytest.fixture
def environment(cluster: Cluster, servers: dict[str, Server], monkeypatch: pytest.MonkeyPatch) -> None:
    import toy_ranks
    import toy_stages

    monkeypatch.setenv("SLURM_CONF", str(cluster.conf))
    monkeypatch.setenv("STEPVIDEO_KINDS", f"{toy_stages.KINDS};{toy_ranks.KINDS}")
    monkeypatch.setenv("STEPVIDEO_ANY_CODE", "1")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(TOYS), str(TOYS.parents[1])]))
    monkeypatch.setenv("PREFECT_API_URL", servers["prefect"].url + "/api")


def ranks(stage_dir: Path) -> list[int]:
    """Process ids of the ranks at a stage."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        words = process.info["cmdline"] or []
        if "stepvideo.job" in words and str(stage_dir) in words and words[0] == sys.executable:
            found.append(process.pid)
    return sorted(found)


@pytest.mark.parametrize("victim", VICTIMS)
def test_killed_in_turn(victim, cluster, servers, environment, tmp_path, capsys) -> None:
    draw = random.Random(f"{SEED} {victim}")
    mini = Mini(tmp_path, capsys)
    settings = [*FIT, *SETTINGS, f"tracking.mlflow_uri={servers['mlflow'].url}"]
    here = mini.run(f"store={tmp_path / 'here'}", *FIT, "cluster=local")
    step = draw.randrange(3, 40)
    strike, mend = _blow(victim, cluster, servers, draw)
    starts, process, struck, began = 0, None, False, time.monotonic()
    while True:
        if process is None:
            assert starts < STARTS
            process, starts = mini.process(*settings, "stages.fit.step_s=0.2"), starts + 1
        if not struck:
            directory = mini.wait_for_step("fit", step, timeout=120)
            strike(directory, process)
            struck, at = True, time.monotonic()
            time.sleep(draw.uniform(1, 4))
            mend()
        with contextlib.suppress(subprocess.TimeoutExpired):
            out, err = process.communicate(timeout=180)
            code, process = process.returncode, None
            if code == 0:
                break
            assert code not in (1, 2), err[-3000:]
    print(f"{victim} at step {step}: {starts} drivers, {time.monotonic() - at:.0f} s from the blow to the end, "
          f"{time.monotonic() - began:.0f} s in all")  # fmt: skip
    wait_for(lambda: not cluster.ask("squeue", "--noheader", "--states=PENDING,RUNNING"), timeout=60)
    cluster.resume()
    made = {p.parent.parent.name: read_json(p)["digest"] for p in mini.store.root.glob("*/*/manifest.json")}
    assert made == {name: row["digest"] for name, row in here.items()}
    assert not is_running(directory) and not list(mini.store.root.glob("*/*/slurm.json"))
    assert mini.cli("status", "--reap", "--store", str(mini.store.root))[0] == 0
    _nothing_is_left_running(servers)


def _blow(
    victim: str, cluster: Cluster, servers: dict[str, Server], draw: random.Random
) -> tuple[Callable[[Path, Any], Any], Callable[[], Any]]:
    """(what strikes, given the stage directory and the driver; what mends, after a while)."""

    def job() -> str:
        rows = (row.split("|") for row in cluster.queue("%j|%A|%T"))
        return next(i for name, i, state in rows if name.startswith("fit-") and state == "RUNNING")

    def nothing() -> None: ...

    node = draw.choice(["training0", "training1"])
    down = lambda: wait_for(lambda: "down" in cluster.state(node), timeout=60)  # noqa: E731
    daemon = cluster.folder / f"{node}.pid"
    urgent = ["--partition=urgent", f"--nodelist={node}", "--exclusive", "--output=/dev/null", "--wrap=sleep 1"]
    blows: dict[str, tuple[Callable[[Path, Any], Any], Callable[[], Any]]] = {
        "rank": (lambda directory, _: os.kill(draw.choice(ranks(directory)), signal.SIGKILL), nothing),
        "node": (lambda *_: cluster.kill(node), lambda: (down(), cluster.revive(node))),
        "slurmd": (lambda *_: os.kill(int(daemon.read_text()), signal.SIGKILL), lambda: cluster.revive(node)),
        "slurmctld": (lambda *_: cluster.kill("controller"), lambda: cluster.revive("controller")),
        "driver": (lambda _, process: process.kill(), nothing),
        "requeue": (lambda *_: cluster.ask("scontrol", "requeue", job()), nothing),
        "preemption": (lambda *_: cluster.ask("sbatch", *urgent), nothing),
    }
    if victim in servers:
        return (lambda *_: servers[victim].kill()), servers[victim].start
    return blows[victim]


def _nothing_is_left_running(servers: dict[str, Server]) -> None:
    url = servers["prefect"].url + "/api/flow_runs/filter"
    states = [run["state_name"] for run in httpx.post(url, json={}, timeout=60).json()]
    assert "Running" not in states and states.count("Completed") >= 1
    mlflow = servers["mlflow"].url + "/api/2.0/mlflow"
    experiments = httpx.post(f"{mlflow}/experiments/search", json={"max_results": 10}, timeout=60).json()["experiments"]
    running = {"experiment_ids": [e["experiment_id"] for e in experiments], "filter": "attributes.status = 'RUNNING'"}
    assert not httpx.post(f"{mlflow}/runs/search", json=running, timeout=60).json().get("runs")
