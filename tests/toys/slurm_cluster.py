"""A real Slurm of four nodes on this machine, for as long as the tests of a process want it."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from pathlib import Path

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "slurm.sh"


def missing() -> str:
    """Why there can be none; empty if there can."""
    path = os.environ.get("PATH", "") + ":/usr/sbin"
    absent = [tool for tool in ("slurmctld", "slurmd", "munged", "sbatch") if not shutil.which(tool, path=path)]
    if absent:
        return f"no {', '.join(absent)}: apt-get install slurm-wlm munge"
    return "" if os.geteuid() == 0 else "slurmd starts jobs as their users: needs root"


class Cluster:
    """`scripts/slurm.sh` in a folder, on ports that were free; with `health_s` nodes check themselves so often."""

    LONGEST = 57  # characters of a folder; with more no job starts

    def __init__(self, folder: Path, health_s: int = 0) -> None:
        assert len(str(folder)) <= self.LONGEST, f"{folder}: sockets of slurmstepd below it would be too long"
        self.folder = folder
        self._run("start", str(_free_ports(5)), *([str(health_s)] if health_s else []))
        self.conf = folder / "slurm.conf"

    def kill(self, what: str) -> None:
        """`controller`, or a node."""
        self._run("kill", what)

    def revive(self, what: str) -> None:
        self._run("revive", what)

    def state(self, node: str) -> str:
        """Such as idle, mixed*, down."""
        return self.ask("sinfo", "--noheader", "--Node", f"--nodes={node}", "--format=%T").split()[0]

    def resume(self) -> None:
        """Take back what nodes were drained for."""
        for node in self.ask("sinfo", "-hN", "--states=drain", "--format=%N").split():
            self.ask("scontrol", "update", f"nodename={node}", "state=resume")

    def stop(self) -> None:
        self._run("stop")

    def queue(self, field: str = "%j") -> list[str]:
        """A field of every job that Slurm knows, ended ones too; elements of arrays apart."""
        return self.ask("squeue", "--noheader", "--states=all", "--array", f"--format={field}").split()

    def ask(self, *command: str) -> str:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    def _run(self, action: str, *more: str) -> None:
        done = subprocess.run([SCRIPT, action, self.folder, *more], capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr


def _free_ports(count: int) -> int:
    """The first of as many in a row."""
    for first in range(26800 + os.getpid() % 1000 * 5, 40000, count):
        try:
            for port in range(first, first + count):
                with socket.socket() as s:
                    s.bind(("127.0.0.1", port))
            return first
        except OSError:
            continue
    raise OSError("no free ports")
