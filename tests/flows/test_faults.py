"""Drivers and jobs that are killed: the same command goes on, and the end is that of an undisturbed run."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from stepvideo import storage
from stepvideo.artifact import is_running

SLOW = "stages.fit.step_s=0.1"  # twenty steps: two seconds to be killed in


@pytest.fixture
def undisturbed(mini, tmp_path) -> dict:
    return mini.run(f"store={tmp_path / 'undisturbed'}", SLOW)


def attempts(directory: Path) -> list[dict]:
    return storage.read_json(directory / "ledger.json")["attempts"]


def equal(rows: dict, undisturbed: dict) -> bool:
    def result(r: dict) -> dict:
        return {name: (row["key"], row["digest"], row["metrics"]) for name, row in r.items()}

    return result(rows) == result(undisturbed)


def kill_job(directory: Path) -> None:
    pid = storage.read_json(directory / "heartbeat.json")["pid"]
    assert is_running(directory)
    os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize("cluster", [pytest.param("local", marks=pytest.mark.soak), "submitit-local"])
def test_a_killed_driver_leaves_its_job_and_the_next_one_attaches(mini, undisturbed, cluster: str) -> None:
    first = mini.process(f"cluster={cluster}", SLOW)
    directory = mini.wait_for_step("fit", 4)
    first.kill()
    first.wait()
    second = mini.process(f"cluster={cluster}", SLOW)
    rows = mini.finish(second)
    assert equal(rows, undisturbed)
    assert len(attempts(directory)) == 1 and rows["noise"]["cached"]


def test_driver_and_job_killed(mini, undisturbed) -> None:
    first = mini.process("cluster=local", SLOW)
    directory = mini.wait_for_step("fit", 4)
    first.kill()
    first.wait()
    kill_job(directory)
    rows = mini.finish(mini.process("cluster=local", SLOW))
    assert equal(rows, undisturbed) and len(attempts(directory)) == 2


def test_job_killed_under_a_live_driver(mini, undisturbed) -> None:
    driver = mini.process("cluster=local", SLOW)
    directory = mini.wait_for_step("fit", 4)
    kill_job(directory)
    assert equal(mini.finish(driver), undisturbed)
    assert attempts(directory)[0]["exit"] == -signal.SIGKILL


def test_a_killed_debug_driver(mini, undisturbed) -> None:
    first = mini.process("cluster=debug", SLOW)
    directory = mini.wait_for_step("fit", 4)
    first.kill()
    first.wait()
    code, out, _ = mini.cli("status", "--store", str(mini.store.root))
    assert code == 0 and "killed" in out and "stopped" in out
    assert equal(mini.finish(mini.process("cluster=debug", SLOW)), undisturbed)
    assert len(attempts(directory)) == 2


@pytest.mark.parametrize("cluster", ["local", pytest.param("submitit-local", marks=pytest.mark.soak)])
def test_interrupting_the_driver_stops_its_job(mini, undisturbed, cluster: str) -> None:
    driver = mini.process(f"cluster={cluster}", SLOW)
    directory = mini.wait_for_step("fit", 4)
    driver.send_signal(signal.SIGINT)
    _, err = driver.communicate(timeout=60)
    assert driver.returncode == 130 and "the same command goes on" in err
    assert not is_running(directory)
    assert not (directory / "manifest.json").exists()
    assert equal(mini.finish(mini.process(f"cluster={cluster}", SLOW)), undisturbed)


def test_two_drivers_at_once_share_the_job(mini, undisturbed) -> None:
    drivers = [mini.process("cluster=local", SLOW) for _ in range(2)]
    for rows in map(mini.finish, drivers):
        assert equal(rows, undisturbed)
    assert len(list(mini.store.root.glob("fit/*/manifest.json"))) == 1


def test_status_and_logs_of_a_live_run(mini) -> None:
    driver = mini.process("cluster=local", SLOW)
    directory = mini.wait_for_step("fit", 6)
    code, out, _ = mini.cli("status", "--store", str(mini.store.root))
    assert code == 0 and "running" in out and "/20 step" in out and "left" in out and "waiting" in out
    code, out, _ = mini.cli("plan", *mini.args("cluster=local", SLOW))
    assert "RUNNING" in out
    mini.cli("logs", "fit", "-f", "--store", str(mini.store.root))  # returns when the job has ended
    assert (directory / "manifest.json").exists()
    mini.finish(driver)
