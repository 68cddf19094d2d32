"""Processes of Slurm jobs on this node: how many, whether they are stopped, their CPU time and I/O. Reads /proc.

Which job a process belongs to is in its environment, which is read when it is new: a process may still exec then, so
it is read again a few times.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

LOOKS = 3  # at a process that belongs to no job, one a reading
AGAIN = 60  # readings after which its number may be another process's
_TICK = os.sysconf("SC_CLK_TCK")


@dataclass
class _Seen:
    job: str = ""
    looks: int = 0
    cpu: float | None = None  # s
    io: float = 0.0  # bytes


@dataclass
class _Job:
    processes: int = 0
    stopped: int = 0
    cpu: float = 0.0
    io: float = 0.0
    pids: list[int] = field(default_factory=list)


class Processes:
    """Of the node `name`; several may run on one host, as in tests, and Slurm tells each process its node."""

    def __init__(self, name: str, root: Path = Path("/proc")) -> None:
        self._name, self._root = f"SLURMD_NODENAME={name}".encode(), str(root)
        self._seen: dict[int, _Seen] = {}
        self._before: float | None = None

    def read(self, now: float) -> dict[str, Any]:
        """{jobs: {id: {processes, stopped, cpu: CPU seconds a second or None, io: bytes/s or None}}}."""
        pids = [int(name) for name in os.listdir(self._root) if name.isdigit()]
        self._seen = {pid: self._seen.get(pid) or _Seen() for pid in pids}
        jobs: dict[str, _Job] = {}
        for pid, seen in self._seen.items():
            if not seen.job:
                seen.looks += 1
                if seen.looks > LOOKS and seen.looks % AGAIN:
                    continue
                seen.job = self._job_of(pid)
            if seen.job:
                self._add(jobs.setdefault(seen.job, _Job()), pid, seen)
        passed = now - self._before if self._before is not None else 0.0
        self._before = now
        return {"jobs": {job: _row(found, passed) for job, found in jobs.items() if found.processes}}

    def _job_of(self, pid: int) -> str:
        environment = self._bytes(pid, "environ").split(b"\0")
        if self._name not in environment:
            return ""
        found = [e for e in environment if e.startswith(b"SLURM_JOB_ID=")]
        return found[0].partition(b"=")[2].decode() if found else ""

    def _add(self, job: _Job, pid: int, seen: _Seen) -> None:
        state, _, rest = self._bytes(pid, "stat").rpartition(b")")[2].strip().partition(b" ")
        if state in (b"", b"Z", b"X"):
            return
        job.processes += 1
        job.stopped += state == b"T"
        job.pids.append(pid)
        fields = rest.split()
        cpu, io = (int(fields[10]) + int(fields[11])) / _TICK, _io(self._bytes(pid, "io").splitlines())
        if seen.cpu is not None:
            job.cpu += max(cpu - seen.cpu, 0.0)
            job.io += max(io - seen.io, 0.0)
        seen.cpu, seen.io = cpu, io

    def _bytes(self, pid: int, name: str) -> bytes:
        try:
            with open(f"{self._root}/{pid}/{name}", "rb") as f:
                return f.read()
        except OSError:  # it has ended, or is another user's
            return b""


def _io(lines: Iterable[bytes]) -> float:
    """Bytes that went through read(2), write(2) and their like: page cache and network file systems too."""
    return float(sum(int(line.split()[1]) for line in lines if line.startswith((b"rchar", b"wchar"))))


def _row(job: _Job, passed: float) -> dict[str, Any]:
    rates = {"cpu": job.cpu / passed, "io": job.io / passed} if passed > 0 else {"cpu": None, "io": None}
    return {"processes": job.processes, "stopped": job.stopped, **rates}
