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
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from stepvideo.errors import ConfigError
from tasks.slurm_refusal import fix_of

RECORD = "slurm.json"  # in the stage directory, as long as how the submission ended is not known
ACTIVE = {
    *("PENDING", "RUNNING", "CONFIGURING", "COMPLETING", "SUSPENDED", "STOPPED", "SIGNALING", "RESIZING", "STAGE_OUT"),
    *("REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "RESV_DEL_HOLD", "SPECIAL_EXIT"),
}
WAITING = {"PENDING", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "RESV_DEL_HOLD", "SPECIAL_EXIT"}
_STATE = {"RUNNING": "on", "CONFIGURING": "waits for the boot of", "COMPLETING": "ends on"}
ANSWER_S = 10.0  # how long Slurm's commands may take
SUBMIT_S = 20.0  # and sbatch, which ends then even if its driver is dead
COLUMNS = {
    **{"Name": 200, "JobArrayID": 40, "State": 20, "exit_code": 20, "Reason": 60, "NodeList": 120},
    **{"SubmitTime": 30, "StartTime": 30},
}
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
    submitted: float = 0.0  # seconds since the epoch; 0: not known
    starts: float = 0.0  # when it started, or is expected to

    @property
    def active(self) -> bool:
        return self.state in ACTIVE


def in_words(jobs: Sequence[Job]) -> str:
    """Where a job is, for people: "on training[0-3]", "waits since 21:05 (Priority), may start at 22:40".

    Of an array, each kind of element with its number. Empty if none is active.
    """
    said: dict[str, int] = {}
    for job in jobs:
        if job.active:
            words = _waiting(job) if job.state in WAITING else f"{_STATE.get(job.state, job.state.lower())} {job.nodes}"
            said[words.strip()] = said.get(words.strip(), 0) + 1
    return "; ".join(f"{count} × {words}" if len(jobs) > 1 else words for words, count in said.items())


def waits(jobs: Sequence[Job]) -> bool:
    """Whether none of those that are active has started."""
    active = [j for j in jobs if j.active]
    return bool(active) and all(j.state in WAITING for j in active)


def _waiting(job: Job) -> str:
    since = f" since {_clock(job.submitted)}" if job.submitted else ""
    start = f", may start at {_clock(job.starts)}" if job.starts > time.time() else ""
    return f"waits{since} ({job.reason}){start}"


def _clock(moment: float) -> str:
    day = "%H:%M" if abs(moment - time.time()) < 43200 else "%d %b %H:%M"
    return time.strftime(day, time.localtime(moment))


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
                self._jobs = squeue()
            if self._jobs is None:
                return None
            if name not in self._jobs:
                self._jobs[name] = _sacct(name)
            return self._jobs[name]


def squeue() -> dict[str, list[Job]] | None:
    """{name: jobs} of the user; None: Slurm does not answer."""
    columns = ",".join(f"{name}:{width}" for name, width in COLUMNS.items())
    said = ask("squeue", "--noheader", "--states=all", "--array", f"--user={_user()}", f"--Format={columns}")
    if said is None:
        return None
    found: dict[str, list[Job]] = {}
    for line in said.splitlines():
        row, at = [], 0
        for width in COLUMNS.values():
            row.append(line[at : at + width].strip())
            at += width
        name, job_id, state, status, reason, nodes, submitted, starts = row
        job = Job(job_id, state, _exit(status), reason, nodes, moment(submitted), moment(starts))
        found.setdefault(name, []).append(job)
    return found


def moment(text: str) -> float:
    """Slurm gives local times, or N/A."""
    try:
        return datetime.fromisoformat(text).timestamp()
    except ValueError:
        return 0.0


def _exit(status: str) -> int:
    """squeue gives the status of wait(2), sacct code:signal."""
    code, _, killed = status.partition(":")
    if killed:
        return int(code) or int(killed)
    return int(code) >> 8 or int(code) if code.isdigit() else 0


def _sacct(name: str) -> list[Job]:
    """Those that squeue has forgotten; none where there is no accounting."""
    columns = "JobID,State,ExitCode,Reason,NodeList"
    said = ask("sacct", "-XnP", f"--name={name}", "--starttime=now-30days", f"--format={columns}")
    rows = [line.split("|") for line in (said or "").splitlines()]
    return [Job(i, state.partition(" ")[0], _exit(code), reason, nodes) for i, state, code, reason, nodes in rows]


def _user() -> str:
    return pwd.getpwuid(os.getuid()).pw_name  # not $USER


def ask(*command: str) -> str | None:
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
    said = said.replace("sbatch: error: ", "").replace("\n", "; ")
    fix = fix_of(said)
    raise ConfigError(f"Slurm refused {script}: {said}{'; ' if fix else ''}{fix}")


def several(nodes: str) -> bool:
    """Whether a list as Slurm writes it has more than one: "a1,b7", "a[1-3]"."""
    return "," in nodes or "[" in nodes


def unwell(nodes: str) -> list[str]:
    """Those of a list that are down, drained or do not answer the controller."""
    said = ask("sinfo", "--noheader", "--Node", f"--nodes={nodes}", "--format=%N %T")
    rows = {tuple(line.split()) for line in (said or "").splitlines()}
    return sorted(node for node, state in rows if state.endswith("*") or state.startswith(("down", "drain", "fail")))


def cancel(name: str, *options: str) -> None:
    """scancel by name; nothing if Slurm does not answer."""
    ask("scancel", "--quiet", f"--user={_user()}", f"--name={name}", *options)
