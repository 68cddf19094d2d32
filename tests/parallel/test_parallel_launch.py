"""Starting ranks, and what happens when one of them fails or dies."""

from __future__ import annotations

import signal
import subprocess
import sys
import time

import pytest

from stepvideo.parallel.launch import exit_code, is_rank, rank, run_ranks

MEET = """
import os, signal, torch, torch.distributed as dist
from stepvideo.parallel.config import ParallelConfig
from stepvideo.parallel.mesh import connect
mesh = connect(ParallelConfig(ulysses=2), "cpu", 60)
dist.barrier()
if dist.get_rank() == 1:
    os.kill(os.getpid(), signal.SIGKILL)
dist.all_reduce(torch.ones(1), group=mesh.get_group("ulysses"))
"""
LAUNCH = (
    "import sys; from stepvideo.parallel.launch import *; sys.exit(exit_code(run_ranks(sys.argv[2:], {}, quiet=True)))"
)


def launched(nproc: int, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", LAUNCH.format(nproc), "--", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def test_ranks_know_who_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    script = "import os; print(*(os.environ[k] for k in ('RANK', 'LOCAL_RANK', 'WORLD_SIZE')))"
    done = launched(3, "-c", script)
    assert (done.returncode, done.stdout) == (0, "0 0 3\n"), done.stderr  # quiet: the others are not heard
    monkeypatch.delenv("RANK", raising=False)
    assert not is_rank() and rank() == 0
    monkeypatch.setenv("RANK", "2")
    assert is_rank() and rank() == 2


def test_a_failing_rank_ends_the_others() -> None:
    done = launched(3, "-c", "import os, sys, time; sys.exit(2) if os.environ['RANK'] == '1' else time.sleep(60)")
    assert done.returncode == 2
    assert done.stderr == "rank 1 failed with exit code 2; ending the others\n"


def test_a_dying_rank_is_named_and_nobody_waits_for_it() -> None:
    start = time.monotonic()
    done = launched(2, "-c", MEET)
    assert done.returncode == 1 and "rank 1 was ended by signal 9" in done.stderr
    assert time.monotonic() - start < 50


def test_exit_codes() -> None:
    assert exit_code([0, 0]) == 0 and exit_code([0, 2]) == 2
    assert exit_code([0, -signal.SIGKILL]) == 1 and exit_code([-signal.SIGTERM, 2]) == 2


def test_an_interrupted_launcher_leaves_nobody_behind() -> None:
    script = "import time; print('here', flush=True); time.sleep(60)"
    command = [sys.executable, "-c", LAUNCH.format(2), "--", "-c", script]
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        # a test run in the background ignores SIGINT, and so would its children
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    ) as launcher:
        assert launcher.stdout is not None and launcher.stdout.readline() == "here\n"
        launcher.send_signal(signal.SIGINT)
        launcher.communicate(timeout=30)  # ends when the last rank has closed its end of the pipe
    assert run_ranks(["-c", "pass"], 1) == [0]
