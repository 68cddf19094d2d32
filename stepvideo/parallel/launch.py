"""Start the ranks of a run on this machine, as torchrun would (decision 005 says why not torchrun); torch-free."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any

from stepvideo.errors import EXIT_PREEMPTED

GRACE_S = 10.0  # given to the other ranks to end by themselves once one has failed


def rank() -> int:
    """Of this process, from torchrun, srun or `run_ranks`; 0 when it is alone."""
    return int(os.environ.get("RANK", 0))


def is_rank() -> bool:
    """Whether this process is one of several already, and must not start any."""
    return "RANK" in os.environ


def run_ranks(arguments: Sequence[str], nproc: int, *, quiet: bool = False) -> list[int]:
    """Run `python ARGUMENTS` as `nproc` ranks in this process group; their exit codes, −n for signal n.

    Signals are passed on. When a rank fails, which is said with its number, the others are ended, as they would wait
    for it in a collective.

    Args:
        quiet: only rank 0 writes to stdout.
    """
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    shared = {"WORLD_SIZE": str(nproc), "LOCAL_WORLD_SIZE": str(nproc)}
    shared |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    command = [sys.executable, *(["-P"] if sys.flags.safe_path else []), *arguments]
    children = [
        subprocess.Popen(
            command,
            env={**os.environ, **shared, "RANK": str(r), "LOCAL_RANK": str(r)},
            stdout=subprocess.DEVNULL if quiet and r else None,
        )
        for r in range(nproc)
    ]

    def forward(number: int, _: object) -> None:
        for c in children:
            if c.poll() is None:
                c.send_signal(number)

    try:
        with handle_signals(forward):
            return _wait_for_all(children)
    finally:
        _end(children)


def exit_code(codes: Sequence[int]) -> int:
    """One for all: the highest, and 1 where a rank was ended by a signal."""
    return max(*codes, int(min(codes) < 0))


def _wait_for_all(children: list[subprocess.Popen[bytes]]) -> list[int]:
    while True:
        codes = [c.poll() for c in children]
        failed = {r: code for r, code in enumerate(codes) if code is not None and code not in (0, EXIT_PREEMPTED)}
        if failed or None not in codes:
            break
        time.sleep(0.05)
    for r, code in failed.items():
        how = f"was ended by signal {-code}" if code < 0 else f"failed with exit code {code}"
        print(f"rank {r} {how}" + ("; ending the others" if None in codes else ""), file=sys.stderr)
    if failed:
        _end(children)
    return [c.wait() for c in children]


def _end(children: list[subprocess.Popen[bytes]]) -> None:
    deadline = time.monotonic() + GRACE_S
    for c in children:
        if c.poll() is None:
            c.terminate()
    for c in children:
        try:
            c.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            c.kill()
            c.wait()


@contextlib.contextmanager
def handle_signals(handler: Any) -> Iterator[None]:
    """SIGTERM, SIGUSR1 and SIGUSR2 go to `handler` (only the main thread can); the former handlers come back after."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    former = {s: signal.signal(s, handler) for s in (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)}
    try:
        yield
    finally:
        for s, f in former.items():
            signal.signal(s, f if f is not None else signal.SIG_DFL)
