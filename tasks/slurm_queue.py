"""What Slurm says of jobs, by their names. It may say nothing for a while: then it is not known, and not over.

Names are the driver's own and unique. Ids are not: a controller that is killed soon after it took a job forgets it, and
gives its id to the next one.
"""

from __future__ import annotations

import os
import pwd
import subprocess
import threading
import time
from dataclasses import dataclass

from stepvideo.errors import ConfigError

ACTIVE = {
    *("PENDING", "RUNNING", "CONFIGURING", "COMPLETING", "SUSPENDED", "STOPPED", "SIGNALING", "RESIZING", "STAGE_OUT"),
    *("REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "RESV_DEL_HOLD", "SPECIAL_EXIT"),
}
ANSWER_S = 10.0  # how long Slurm's commands may take
SUBMIT_S = 20.0  # and sbatch, which ends then even if its driver is dead
COLUMNS = {"Name": 200, "JobArrayID": 40, "State": 20, "exit_code": 20, "Reason": 60, "NodeList": 120}
# sbatch may have been heard, or not; anything else that it says is a refusal
UNHEARD = ("contact slurm controller", "timed out", "Connection", "Zero Bytes", "Transport endpoint", "standby mode")


@dataclass(frozen=True)
class Job:
    """A job, or an element of an array, in its latest incarnation."""

    id: str
    state: str  # as Slurm has it: RUNNING, NODE_FAIL, …
    exit: int  # code of the batch script; only of FAILED jobs
    reason: str
    nodes: str

    @property
    def active(self) -> bool:
        return self.state in ACTIVE


class Unheard(Exception):
    """Whether Slurm took the job is not known; its name will tell."""


class Queue:
    """The user's jobs, asked for together at most every `poll_s` seconds, whoever wants to know."""

    def __init__(self, poll_s: float) -> None:
        self._poll_s = poll_s
        self._lock = threading.Lock()
        self._asked = float("-inf")
        self._jobs: dict[str, list[Job]] | None = None

    def jobs(self, name: str, since: float = 0.0, max_age_s: float | None = None) -> list[Job] | None:
        """Those of that name, ended ones too for as long as Slurm remembers them; None: Slurm does not answer.

        Args:
            since: an answer from before this moment of `time.monotonic()` does not count.
        """
        with self._lock:
            oldest = time.monotonic() - (self._poll_s if max_age_s is None else max_age_s)
            if self._asked < max(since, oldest):
                self._asked = time.monotonic()  # the answer is older than the moment at which it comes
                self._jobs = _squeue()
            if self._jobs is None:
                return None
            if name not in self._jobs:
                self._jobs[name] = _sacct(name)
            return self._jobs[name]


def _squeue() -> dict[str, list[Job]] | None:
    columns = ",".join(f"{name}:{width}" for name, width in COLUMNS.items())
    said = _ask("squeue", "--noheader", "--states=all", "--array", f"--user={_user()}", f"--Format={columns}")
    if said is None:
        return None
    found: dict[str, list[Job]] = {}
    for line in said.splitlines():
        row, at = [], 0
        for width in COLUMNS.values():
            row.append(line[at : at + width].strip())
            at += width
        name, job_id, state, status, reason, nodes = row
        found.setdefault(name, []).append(Job(job_id, state, _exit(status), reason, nodes))
    return found


def _exit(status: str) -> int:
    """squeue gives the status of wait(2), sacct code:signal."""
    code, _, killed = status.partition(":")
    if killed:
        return int(code) or int(killed)
    return int(code) >> 8 or int(code) if code.isdigit() else 0


def _sacct(name: str) -> list[Job]:
    """Those that squeue has forgotten; none where there is no accounting."""
    columns = "JobID,State,ExitCode,Reason,NodeList"
    said = _ask("sacct", "-XnP", f"--name={name}", "--starttime=now-30days", f"--format={columns}")
    rows = [line.split("|") for line in (said or "").splitlines()]
    return [Job(i, state.partition(" ")[0], _exit(code), reason, nodes) for i, state, code, reason, nodes in rows]


def _user() -> str:
    return pwd.getpwuid(os.getuid()).pw_name  # not $USER


def _ask(*command: str) -> str | None:
    """What a command of Slurm says; None if it fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=ANSWER_S)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None


def submit(script: str) -> str:
    """The id of a new job.

    Raises:
        Unheard: nobody knows whether there is one.
        ConfigError: Slurm refused, with its reason.
    """
    command = ["timeout", str(SUBMIT_S), "sbatch", "--parsable", script]
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    if done.returncode == 0:
        return done.stdout.strip().partition(";")[0]
    said = done.stderr.strip()
    if done.returncode == 124 or any(words in said for words in UNHEARD):
        raise Unheard(said)
    raise ConfigError(f"Slurm refused {script}: {said.replace('sbatch: error: ', '').replace(chr(10), '; ')}")


def cancel(name: str, *options: str) -> None:
    """scancel by name; nothing if Slurm does not answer."""
    _ask("scancel", "--quiet", f"--user={_user()}", f"--name={name}", *options)
