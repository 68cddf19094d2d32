"""A real Slurm with Prefect and MLflow servers of its own, of which each may be killed and started again. Fixtures,
taken by name, and what must be true of a cascade in the end, whatever was killed.
"""

from __future__ import annotations

import contextlib
import os
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
from slurm_cluster import Cluster
from slurm_stages import wait_for

from stepvideo.artifact import Store, is_running

ROOT = TOYS.parents[1]
SEED = int(os.environ.get("STEPVIDEO_SOAK_SEED", "7"))
SETTINGS = ["cluster=slurm", "cluster.snapshot=false", "cluster.slurm.poll_s=1", "cluster.slurm.warn_s=50"]
STARTS = 5  # of the driver, at most


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
            self.process = subprocess.Popen(self._command, cwd=ROOT, stdout=log, stderr=log, start_new_session=True)
        wait_for(self._answers, lambda: self.process.poll() is None, timeout=1200)

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
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(TOYS), str(ROOT)]))
    monkeypatch.setenv("PREFECT_API_URL", servers["prefect"].url + "/api")


def tracked(servers: dict[str, Server]) -> list[str]:
    """Settings."""
    return ["tracking=local", f"tracking.mlflow_uri={servers['mlflow'].url}"]


def processes(*words: str) -> list[int]:
    """Ids of those of this interpreter in whose command line all words are."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        line = process.info["cmdline"] or []
        if line and line[0] == sys.executable and all(any(w in part for part in line) for w in words):
            found.append(process.pid)
    return sorted(found)


def to_the_end(
    drive: Callable[[], subprocess.Popen[str]],
    ready: Callable[[], Path],
    strike: Callable[[Path, Any], Any],
    mend: Callable[[], Any],
    pause_s: float,
) -> tuple[Path, str]:
    """Drive a cascade, strike once it is ready, and mend; a service starts a driver that has ended without success.

    Returns:
        What `ready` gave, and in words how it went.
    """
    starts, process, struck, began = 0, None, None, time.monotonic()
    while True:
        if process is None:
            assert starts < STARTS
            process, starts = drive(), starts + 1
        if struck is None:
            directory = ready()
            strike(directory, process)
            struck = time.monotonic()
            time.sleep(pause_s)
            mend()
        with contextlib.suppress(subprocess.TimeoutExpired):
            _, err = process.communicate(timeout=600)
            code, process = process.returncode, None
            if code == 0:
                now = time.monotonic()
                return directory, f"{starts} drivers, {now - struck:.0f} s from the blow, {now - began:.0f} s in all"
            assert code not in (1, 2), err[-3000:]


def nothing_is_left(mini: Mini, cluster: Cluster, servers: dict[str, Server], at: Path) -> None:
    """No orphan job or process, no submission, no run left RUNNING in Prefect or MLflow."""
    wait_for(lambda: not cluster.ask("squeue", "--noheader", "--states=PENDING,RUNNING"), timeout=60)
    cluster.resume()
    assert not is_running(at) and not list(mini.store.root.glob("*/*/slurm.json"))
    assert not list(mini.store.root.glob("*/*/producers/*/slurm.json"))
    wait_for(lambda: not processes("stepvideo", str(mini.store.root)), timeout=60)
    assert mini.cli("status", "--reap", "--store", str(mini.store.root))[0] == 0
    url = servers["prefect"].url + "/api/flow_runs/filter"
    states = [run["state_name"] for run in httpx.post(url, json={}, timeout=60).json()]
    assert "Running" not in states and states.count("Completed") >= 1
    experiments = mlflow(servers, "experiments/search", {"max_results": 10})["experiments"]
    running = {"experiment_ids": [e["experiment_id"] for e in experiments], "filter": "attributes.status = 'RUNNING'"}
    assert not mlflow(servers, "runs/search", running).get("runs")


def candidate(servers: dict[str, Server], model: str = "stepvideo-t2v") -> dict[str, str]:
    """Tags of the version that the registry calls `candidate`."""
    asked = httpx.get(
        f"{servers['mlflow'].url}/api/2.0/mlflow/registered-models/alias",
        params={"name": model, "alias": "candidate"},
        timeout=60,
    )
    assert asked.status_code == 200, asked.text
    return {tag["key"]: tag["value"] for tag in asked.json()["model_version"].get("tags", [])}


def mlflow(servers: dict[str, Server], what: str, body: dict[str, Any]) -> dict[str, Any]:
    return httpx.post(f"{servers['mlflow'].url}/api/2.0/mlflow/{what}", json=body, timeout=60).json()


def made(store: Store) -> dict[str, str]:
    """{stage: digest}."""
    from stepvideo.storage import read_json

    return {p.parent.parent.name: read_json(p)["digest"] for p in store.root.glob("*/*/manifest.json")}
