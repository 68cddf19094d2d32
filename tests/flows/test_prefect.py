"""The Prefect flow: states of tasks tell the truth, artifacts are there, a killed flow run is closed by the reaper."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from mini import ROOT
from own_prefect import own_prefect

from stepvideo import storage
from stepvideo.artifact import is_running
from tasks.environment import set_defaults
from tasks.gates import Finding, GateReport

SLOW = "stages.fit.step_s=0.1"
ON = ["tracking=local", "cluster=local"]


@pytest.fixture
def server(tmp_path: Path, new_prefect: Path) -> Iterator[None]:
    """One server for the whole test, as `make ui` runs one; drivers use it through PREFECT_API_URL."""
    with own_prefect(tmp_path / "work" / ".prefect", new_prefect):
        yield


def tasks_of(run) -> dict[str, str]:
    from prefect import get_client
    from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId

    with get_client(sync_client=True) as client:
        found = client.read_task_runs(flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=[run.id])))
    return {t.name: t.state.name for t in found}


def flow_runs() -> list:
    from prefect import get_client

    with get_client(sync_client=True) as client:
        return sorted(client.read_flow_runs(), key=lambda r: r.created)


def cancel(run) -> None:
    """As the button in the UI does."""
    from prefect import get_client
    from prefect.states import Cancelling

    with get_client(sync_client=True) as client:
        client.set_flow_run_state(run.id, Cancelling())


def _artifacts(run) -> list[dict]:
    import httpx

    url = f"{os.environ['PREFECT_API_URL']}/artifacts/filter"
    return httpx.post(url, json={"artifacts": {"flow_run_id": {"any_": [str(run.id)]}}}).json()


def artifacts(run) -> dict[str, str]:
    return {a["key"]: a["type"] for a in _artifacts(run)}


def test_states_and_artifacts_tell_what_happened(mini, server, new_mlflow, monkeypatch: pytest.MonkeyPatch) -> None:
    import toy_gated

    shutil.copy(new_mlflow, mini.folder / "work")
    mini.run(*ON)
    rows = mini.run(*ON, "stages.score.offset=1")
    first, second = flow_runs()
    assert (first.state.name, second.state.name) == ("Completed", "Completed")
    assert tasks_of(first) == dict.fromkeys(("noise", "fit", "score"), "Completed")
    assert tasks_of(second) == {"noise": "Cached", "fit": "Cached", "score": "Completed"}
    shown = {"plan": "table", "cascade-progress": "progress", "mlflow": "markdown"}
    assert artifacts(second) == shown and artifacts(first) == shown | {"progress-fit": "progress"}
    assert second.parameters["until"] is None and "stages.score.offset=1" in second.parameters["overrides"]
    spec = storage.read_json(Path(rows["score"]["path"]).parent / "spec.json")
    record = storage.read_json(mini.store.root / "_runs" / spec["lineage"]["run"] / "run.json")
    assert record["tracking"]["flow_run"] == str(second.id)

    failing = mini.process(*ON, "stages.fit.fail_at=3", "runtime.max_attempts=1")
    _, err = failing.communicate(timeout=120)
    assert failing.returncode == 1 and err.count("Traceback") == 0 and "the machine erred" in err
    third = flow_runs()[-1]
    assert third.state.name == "Failed" and tasks_of(third) == {"noise": "Cached", "fit": "Failed"}

    driver = mini.process(*ON, "stages.fit.step_s=0.2", "stages.fit.steps=100")
    directory = mini.wait_for_step("fit", 2, timeout=120)
    cancel(flow_runs()[-1])
    _, err = driver.communicate(timeout=60)
    assert driver.returncode == 130 and flow_runs()[-1].state.name == "Cancelled", err
    assert not is_running(directory) and not (directory / "manifest.json").exists()

    driver = mini.process(*ON, SLOW)
    directory = mini.wait_for_step("fit", 8, timeout=120)
    driver.kill()
    driver.wait()
    os.kill(storage.read_json(directory / "heartbeat.json")["pid"], signal.SIGKILL)
    killed = flow_runs()[-1]
    assert killed.state.name == "Running"
    code, out, err = mini.cli("status", "--reap", "--store", str(mini.store.root))
    assert code == 0 and "→ CRASHED" in out, err
    assert {r.state.name for r in flow_runs()} == {"Completed", "Failed", "Cancelled", "Crashed"}
    assert set(tasks_of(killed).values()) == {"Cached", "Crashed"}
    assert "nothing was left open" in mini.cli("status", "--reap", "--store", str(mini.store.root))[1]

    monkeypatch.setenv("STEPVIDEO_KINDS", toy_gated.KINDS)
    mini.run(*ON, "graph=toy_gated", "gate=false", "tracking.mlflow=false")
    last = flow_runs()[-1]
    found = {a["key"]: a for a in _artifacts(last)}
    assert "| quarantined: no_video | 1 |" in found["funnel-clips"]["data"]
    progress = found["progress-fit"]
    assert (progress["description"], progress["data"]) == ("fit: 20 of 20 step", 100)
    assert progress["flow_run_id"] == str(last.id)


def test_a_verdict_names_what_was_found_and_where_the_docs_are() -> None:
    from flows.board import verdict

    found = [Finding("clips", "frames", severity, "3 of 9 rows", ["c1"]) for severity in ("critical", "warning")]
    said = verdict("gate.curate", GateReport(False, found[1:], found[:1], Path("/store/gate/index.html"), 40))
    assert "40 expectations, 1 failed, 1 warnings. Data Docs: `/store/gate/index.html`" in said
    assert said.count("- [clips] frames: 3 of 9 rows; for example c1") == 2


HOLDS_A_SERVER = """
import sys, time
from pathlib import Path
from tasks.prefect_server import temporary_server
with temporary_server(Path(sys.argv[1])):
    print(flush=True)
    time.sleep(600)
"""


@pytest.mark.parametrize("after_s", [0, 1])
def test_the_server_ends_with_a_killed_driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after_s: float) -> None:
    """Killed before it has asked to be told, or while it imports; while it serves: the test after this."""
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path / ".prefect"))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    driver = subprocess.Popen([sys.executable, "-c", HOLDS_A_SERVER, str(tmp_path / "log")], stdout=subprocess.PIPE)
    assert driver.stdout and driver.stdout.readline()
    time.sleep(after_s)
    (server,) = psutil.Process(driver.pid).children()
    driver.kill()
    driver.wait()
    server.wait(10)


@pytest.mark.soak
def test_the_server_ends_with_a_killed_run(mini) -> None:
    driver = mini.process(*ON, SLOW)
    mini.wait_for_step("fit", 2, timeout=120)
    (port,) = _ports_of_children(driver.pid)
    driver.kill()
    driver.wait()
    for _ in range(100):
        with socket.socket() as s:
            if s.connect_ex(("127.0.0.1", port)):
                break
        time.sleep(0.1)
    else:
        pytest.fail("the Prefect server outlived its driver")


@pytest.mark.soak
def test_a_cached_run_with_a_server_of_its_own_is_within_the_bar(mini) -> None:
    """15 s on two free cores; here in seconds of CPU of all processes, because others run on the same cores."""
    mini.finish(mini.process(*ON, SLOW))
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    rows = mini.finish(mini.process(*ON, SLOW))
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert all(r["cached"] for r in rows.values())
    assert (after.ru_utime - before.ru_utime) + (after.ru_stime - before.ru_stime) < 15
    assert (mini.folder / "work" / ".prefect").is_dir() and (mini.folder / "work" / "mlflow.db").exists()


def _ports_of_children(pid: int) -> list[int]:
    children = psutil.Process(pid).children(recursive=True)
    return [c.laddr.port for p in children for c in p.net_connections() if c.status == psutil.CONN_LISTEN]


def test_set_defaults_lets_the_user_win(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_HOME", "/mine")
    monkeypatch.delenv("MLFLOW_LOGGING_LEVEL", raising=False)
    set_defaults({"work": str(tmp_path), "tracking": {}})
    assert os.environ["PREFECT_HOME"] == "/mine" and os.environ["MLFLOW_LOGGING_LEVEL"] == "WARNING"
