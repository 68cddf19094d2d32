"""The consumer that a run starts: one, when there is something to ship, and gone with the run."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest
from telemetry_segments import expected, fill, stored

from stepvideo.telemetry.schema import FOLDER
from stepvideo.telemetry.ship import alone
from tasks import shipping
from tasks.shipping import Shipping


def look(consumer: Shipping) -> subprocess.Popen[bytes] | None:
    consumer.events(None, [], 0)  # type: ignore[arg-type]
    return consumer._process


def test_a_run_that_records_nothing_starts_nobody(tmp_path):
    consumer = Shipping(tmp_path)
    assert look(consumer) is None
    (tmp_path / FOLDER / "segments").mkdir(parents=True)
    assert look(consumer) is None
    consumer.close()


def test_what_was_recorded_until_the_end_is_in_parquet_and_the_child_is_gone(tmp_path):
    fill(tmp_path / FOLDER, 0, 0, 3)
    consumer = Shipping(tmp_path)
    process = look(consumer)
    assert process is not None and look(consumer) is process
    fill(tmp_path / FOLDER, 1, 0, 4)
    consumer.close()
    assert process.returncode == 0
    assert stored(tmp_path / FOLDER) == expected((0, 0, 3), (1, 0, 4))


def test_where_another_ships_it_ends_and_is_tried_again_later(tmp_path, monkeypatch):
    fill(tmp_path / FOLDER, 0, 0, 3)
    consumer = Shipping(tmp_path)
    with alone(tmp_path / FOLDER):
        process = look(consumer)
        assert process is not None and process.wait(60) == 1
        assert look(consumer) is process
    monkeypatch.setattr(shipping, "AGAIN_S", 0.0)
    consumer._next = 0.0
    assert look(consumer) is not process
    consumer.close()
    assert stored(tmp_path / FOLDER) == expected((0, 0, 3))


def test_no_process_can_be_started_and_the_run_goes_on(tmp_path, monkeypatch, capsys):
    fill(tmp_path / FOLDER, 0, 0, 1)
    monkeypatch.setattr(shipping.subprocess, "Popen", lambda *a, **k: (_ for _ in ()).throw(OSError(11, "no more")))
    consumer = Shipping(tmp_path)
    assert look(consumer) is None and "no consumer" in capsys.readouterr().err
    consumer.close()


KILLED = """
import os, sys, time
from pathlib import Path
from tasks.shipping import Shipping
consumer = Shipping(Path(sys.argv[1]))
consumer.events(None, [], 0)
print(consumer._process.pid, flush=True)
os.kill(os.getpid(), 9)
"""


def test_a_killed_driver_leaves_no_consumer(tmp_path):
    fill(tmp_path / FOLDER, 0, 0, 3)
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], cwd=root, stdout=subprocess.PIPE, text=True)
    assert done.returncode == -9
    until = time.monotonic() + 60
    while alive(int(done.stdout)) and time.monotonic() < until:
        time.sleep(0.05)
    assert not alive(int(done.stdout)) and stored(tmp_path / FOLDER) == expected((0, 0, 3))


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.fixture(autouse=True)
def _from_here(monkeypatch):
    monkeypatch.chdir(Path(__file__).parents[2])
