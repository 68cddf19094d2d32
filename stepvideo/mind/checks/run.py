"""Runs checks, each in a process of its own that is killed when its time is up: a mount or a driver that hangs, hangs
alone, and says nothing of the node.
"""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from select import select
from typing import Any

from stepvideo.errors import ConfigError
from stepvideo.mind.checks import devices, system
from stepvideo.mind.checks.host import Expected, Host
from stepvideo.mind.checks.result import Result, Status


@dataclass(frozen=True)
class Check:
    """needs: what a machine must have for it to say anything."""

    name: str
    run: Callable[[Host, Expected], Iterable[Result]]
    needs: str = "Linux"
    timeout_s: float = 10.0


CHECKS: dict[str, Check] = {
    c.name: c
    for c in (
        Check("disks", system.disks),
        Check("memory", system.memory),
        Check("limits", system.limits),
        Check("clock", system.clock, "a shared folder"),
        Check("kernel", system.kernel, "the right to read /dev/kmsg"),
        Check("load", system.load),
        Check("mounts", system.mounts, "the list of mounts"),
        Check("leftovers", system.leftovers, "Slurm"),
        Check("gpus", devices.gpus, "an NVIDIA driver", 20.0),
        Check("ports", devices.ports, "the list of ports"),
    )
}


def chosen(names: Sequence[str]) -> list[Check]:
    """Raises ConfigError: no such check."""
    if unknown := [name for name in names if name not in CHECKS]:
        raise ConfigError(f"no check {', '.join(unknown)}; there are {', '.join(CHECKS)}")
    return [CHECKS[name] for name in names] if names else list(CHECKS.values())


def run(checks: Sequence[Check], host: Host, expected: Expected) -> list[Result]:
    """All at once, results in the order of the checks; ends when the last one ended or its time is up."""
    running = {}
    for check in checks:
        pid, pipe = _start(check, host, expected)
        running[pipe] = _Running(check, pid, time.monotonic())
    answers: dict[str, list[Result]] = {}
    while running:
        now = time.monotonic()
        wait = max(min(r.begun + r.check.timeout_s for r in running.values()) - now, 0.0)
        ready = select(list(running), [], [], wait)[0]
        for pipe in ready:
            r = running[pipe]
            if data := os.read(pipe, 1 << 16):
                r.said += data
                continue
            answers[r.check.name] = r.results(time.monotonic())
            _end(pipe, r.pid)
            del running[pipe]
        now = time.monotonic()
        for pipe, r in [(p, r) for p, r in running.items() if now - r.begun >= r.check.timeout_s]:
            answers[r.check.name] = [r.unknown(f"no answer within {r.check.timeout_s:g} s", now)]
            _end(pipe, r.pid)
            del running[pipe]
    return [result for check in checks for result in answers[check.name]]


@dataclass
class _Running:
    check: Check
    pid: int
    begun: float
    said: bytes = b""

    def results(self, now: float) -> list[Result]:
        try:
            rows = json.loads(self.said)
        except ValueError:
            return [self.unknown("its process died", now)]
        if isinstance(rows, str):
            return [self.unknown(rows, now)]
        return [replace(result(row), seconds=now - self.begun) for row in rows]

    def unknown(self, why: str, now: float) -> Result:
        return Result(self.check.name, Status.UNKNOWN, why, unsure=True, seconds=now - self.begun)


def result(row: Mapping[str, Any]) -> Result:
    return Result(**{**row, "status": Status(row["status"])})


def _start(check: Check, host: Host, expected: Expected) -> tuple[int, int]:
    reader, writer = os.pipe()
    pid = os.fork()
    if pid:
        os.close(writer)
        return pid, reader
    try:
        os.setsid()  # what it starts ends with it
        try:
            said: Any = [asdict(r) for r in check.run(host, expected)]
        except Exception as e:
            said = f"{type(e).__name__}: {e}"
        with os.fdopen(writer, "wb") as f:
            f.write(json.dumps(said).encode())
    finally:
        os._exit(0)


def _end(pipe: int, pid: int) -> None:
    """A process that waits for a device does not even die: it is left to the kernel."""
    os.close(pipe)
    for kill in (os.killpg, os.kill):
        try:
            kill(pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            continue
    for _ in range(20):
        if os.waitpid(pid, os.WNOHANG)[0]:
            return
        time.sleep(0.005)
