"""A cascade as a deployment that a Prefect worker runs on a real Slurm; the worker and all below it are killed, another
takes its place.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from mini import Mini
from slurm_cluster import missing
from slurm_stages import clients, slurm, wait_for  # noqa: F401

from stepvideo.artifact import is_running
from stepvideo.storage import read_json
from tasks.prefect_server import temporary_server

pytestmark = [
    pytest.mark.soak,
    pytest.mark.skipif(bool(missing()), reason=missing()),
    pytest.mark.usefixtures("clients"),
]
ON = ["tracking=local", "tracking.mlflow=false", "cluster=slurm", "cluster.snapshot=false", "cluster.slurm.poll_s=1"]
ON += ["cluster.slurm.warn_s=50", "stages.fit.step_s=0.3", "stages.fit.steps=100"]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    home = tmp_path_factory.mktemp("prefect")
    os.environ["PREFECT_HOME"] = str(home / ".prefect")
    with temporary_server(home / "server.log") as wait_until_up:
        wait_until_up()
        yield


def worker(store: Path) -> subprocess.Popen[bytes]:
    """In a session of its own, with the flow runs that it starts."""
    command = [sys.executable, "-m", "stepvideo.cli", "worker", "--store", str(store)]
    environment = os.environ | {"PREFECT_WORKER_QUERY_SECONDS": "1", "PREFECT_RUNNER_POLL_FREQUENCY": "2"}
    return subprocess.Popen(command, env=environment, start_new_session=True, cwd=Path(__file__).parents[2])


def kill(process: subprocess.Popen[bytes]) -> None:
    """All of it, as a machine that goes down; jobs of Slurm are elsewhere."""
    for each in [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]:
        each.send_signal(signal.SIGKILL)
    process.wait()


def test_a_worker_that_is_killed_is_succeeded(slurm, server, tmp_path, capsys) -> None:  # noqa: F811
    from prefect import get_client

    mini = Mini(tmp_path, capsys)
    here = mini.run(f"store={tmp_path / 'here'}", "stages.fit.steps=100")
    mini.store.root.mkdir()
    before = len(slurm.queue())
    first = worker(mini.store.root)
    with get_client(sync_client=True) as client:
        found: list[Any] = []

        def deployed() -> bool:
            found[:] = [d for d in client.read_deployments() if d.name == "any"]
            return bool(found)

        wait_for(deployed, lambda: first.poll() is None, timeout=120)
        parameters = {"overrides": mini.args(*ON), "until": None}
        run = client.create_flow_run_from_deployment(found[0].id, parameters=parameters)
        directory = mini.wait_for_step("fit", 3, timeout=180)
        kill(first)
        assert is_running(directory) and client.read_flow_run(run.id).state.name == "Running"
        second = worker(mini.store.root)
        try:
            wait_for(lambda: client.read_flow_run(run.id).state.is_final(), lambda: second.poll() is None, timeout=180)
            assert client.read_flow_run(run.id).state.name == "Completed"
        finally:
            kill(second)
    made = {p.parent.parent.name: read_json(p)["digest"] for p in mini.store.root.glob("*/*/manifest.json")}
    assert made == {name: row["digest"] for name, row in here.items()}
    assert len(slurm.queue()) == before + 3
