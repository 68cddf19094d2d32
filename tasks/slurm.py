"""Stages as Slurm jobs, each a submission with a name of its own (`tasks/slurm_submission.py`).

Slurm requeues jobs by itself (node failure, preemption, `scontrol requeue`), and they go on from their `work/`. How a
job ended is taken from the artifact first, then from Slurm, then from what the job itself left in `events.jsonl`.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections import Counter
from pathlib import Path
from typing import Any

from stepvideo import artifact, storage
from stepvideo.errors import EXIT_PREEMPTED, ArtifactError, ConfigError
from stepvideo.job import EXIT_BUSY
from stepvideo.sink import read_events
from stepvideo.stage import StageSpec
from tasks import mind_acts, mind_watch, slurm_queue
from tasks.launch import FAILED, TIMED_OUT, Attached, Handle
from tasks.slurm_config import SlurmConfig
from tasks.slurm_queue import RECORD, Job, Queue
from tasks.slurm_script import batch_script
from tasks.slurm_submission import Submission, alone

LOOK_S, HURRY_S = 1.0, 10.0  # between two looks at the stage's lock; how long Slurm is asked as often after its loss
LAG_S = 60.0  # a shared file system may show so late what a node has written
NOT_STARTED = "launch failed requeued held"  # it would wait for ever; a hold by a person has another reason
UNSTARTED = 5  # times in a row that a node may be to blame for; then it is what all nodes have in common
AGAIN = {"PREEMPTED", "NODE_FAIL", "BOOT_FAIL", "REVOKED"}  # not the job's fault
CODES = {"preempted": EXIT_PREEMPTED, "failed": FAILED, "finished": FAILED}  # by its last word; finished: no manifest


class Slurm:
    """The launcher of `cluster.launcher=slurm`."""

    name = "slurm"

    def __init__(self, config: SlurmConfig, code: Path | None = None) -> None:
        if not shutil.which("sbatch"):
            raise ConfigError(
                "cluster.launcher=slurm needs Slurm's commands, and there is no sbatch; try cluster=local"
            )
        self._config, self._code = config, code
        self._queue = Queue(config.poll_s)
        self._unstarted = Counter[Path]()

    def attach(self, stage_dir: Path, ids: dict[str, Any]) -> Handle | None:
        mind_watch.watch(stage_dir.parents[1])
        with contextlib.suppress(FileNotFoundError):
            found = Submission(stage_dir / RECORD, self._queue)
            if not found.record["cancelled"]:
                return _Submitted(stage_dir, found, self._unstarted)
            found.stop(slurm_queue.ANSWER_S)  # its driver did not get that far
            if found.path.exists():
                raise ArtifactError(f"Slurm does not cancel {found.name}, whose driver was stopped; try later")
        return Attached(stage_dir, ids) if artifact.is_running(stage_dir) else None

    def submit(self, stage_dir: Path, number: int, timeout_s: float) -> Handle:
        with alone(stage_dir / "submission"):
            if handle := self.attach(stage_dir, {}):  # another driver was quicker
                return handle
            spec = StageSpec.read(stage_dir / "spec.json")
            (stage_dir / "error.json").unlink(missing_ok=True)  # of an earlier attempt

            def script(name: str) -> str:
                return batch_script(spec.stage, spec.config, stage_dir, number, name, self._config, self._code)

            begin = {"offset": _size(stage_dir / "events.jsonl"), "timeout_s": timeout_s}
            made = Submission.make(stage_dir / RECORD, self._queue, spec.stage, script, **begin)
            return _Submitted(stage_dir, made, self._unstarted)


class _Submitted:
    """The job, or all elements of the job array, of a stage's submission."""

    def __init__(self, stage_dir: Path, submission: Submission, unstarted: Counter[Path]) -> None:
        self._dir, self._submission, self._unstarted = stage_dir, submission, unstarted
        self.record = submission.record
        self.ids: dict[str, Any] = {"job_name": submission.name, "job_id": self.record["job_id"]}
        self.said = ""
        self._running_since: float | None = None
        self._timed_out = False
        self._ended: float | None = None
        self._at_it, self._looked, self._hurry_until = False, float("-inf"), float("-inf")

    def poll(self) -> int | None:
        if (self._dir / "manifest.json").exists():
            # requeued although it went on, by a controller that had died
            slurm_queue.cancel(self._submission.name, "--state=PENDING")
            return self._closed(0)
        jobs = self._submission.jobs(max_age_s=self._hurry())
        self.said = slurm_queue.in_words(jobs) if jobs is not None else "Slurm does not answer"
        if jobs and any(j.reason == NOT_STARTED for j in jobs) and not artifact.is_running(self._dir):
            self.stop(slurm_queue.ANSWER_S)
            self._unstarted[self._dir] += 1
            if self._unstarted[self._dir] < UNSTARTED:
                return EXIT_PREEMPTED
            times = f"{self._unstarted[self._dir]} times in a row no node could start it (launch failed)"
            return self._blame(jobs[0], f"was taken back: {times}; the nodes' slurmd.log says why", user=True)
        if jobs is None or any(j.active for j in jobs):
            self._watch_time(jobs or [])
            return None
        if not jobs and (self._submission.may_come() or artifact.is_running(self._dir)):
            return None
        self._ended = self._ended or time.monotonic()
        if jobs and all(j.state == "COMPLETED" for j in jobs) and time.monotonic() < self._ended + LAG_S:
            return None
        return self._closed(TIMED_OUT if self._timed_out else self._verdict(jobs))

    def stop(self, grace_s: float) -> None:
        self._submission.stop(grace_s)

    def _hurry(self) -> float | None:
        """A stage that is not at it any more has ended, or lost its job: then Slurm is asked at once, for a while."""
        now = time.monotonic()
        if now > self._looked + LOOK_S:
            self._looked, was = now, self._at_it
            self._at_it = artifact.is_running(self._dir)
            if self._at_it:
                del self._unstarted[self._dir]
            if was and not self._at_it:
                self._hurry_until = now + HURRY_S
        return LOOK_S if now < self._hurry_until else None

    def _watch_time(self, jobs: list[Job]) -> None:
        if self._running_since is None and any(j.state == "RUNNING" for j in jobs):
            self._running_since = time.monotonic()
        limit = self.record["timeout_s"]
        if limit and self._running_since and time.monotonic() > self._running_since + limit:
            self._timed_out = True
            self.stop(slurm_queue.ANSWER_S)

    def _verdict(self, jobs: list[Job]) -> int:
        if (self._dir / "manifest.json").exists():  # since it was looked for
            return 0
        codes = {self._code(j) for j in jobs} or {CODES.get(self._last_word(), EXIT_PREEMPTED)}
        failed = codes - {0, EXIT_PREEMPTED, EXIT_BUSY}
        if EXIT_BUSY not in codes and jobs:  # Slurm has seen it end, so its heartbeat is of a node that died
            for directory in (self._dir, *self._dir.glob("array/*")):
                (directory / "heartbeat.json").unlink(missing_ok=True)
        return max(failed or codes - {0} or {self._blame(jobs[0], "ended well, but its artifact is not here")})

    def _code(self, job: Job) -> int:
        if job.state == "COMPLETED":
            return 0
        if job.state == "CANCELLED" and not self.record["cancelled"]:
            return self._blame(job, "was cancelled in Slurm, not by its driver", user=True)
        if job.state in AGAIN or job.state == "CANCELLED":
            return EXIT_PREEMPTED
        if job.state == "FAILED" and slurm_queue.several(job.nodes) and slurm_queue.unwell(job.nodes):
            return EXIT_PREEMPTED  # the other ranks failed, because a node of theirs did
        if job.state == "TIMEOUT":
            return EXIT_PREEMPTED if self._last_word() == "preempted" else TIMED_OUT
        if job.exit not in (EXIT_PREEMPTED, EXIT_BUSY) and mind_acts.after_failure(self._dir, job):
            return EXIT_PREEMPTED  # a node is to blame, and out of service now
        if job.state != "FAILED" or job.exit not in (FAILED, EXIT_PREEMPTED, EXIT_BUSY):
            self._blame(job, f"ended as {job.state} with exit code {job.exit}")
        return job.exit or FAILED

    def _blame(self, job: Job, what: str, user: bool = False) -> int:
        """Say what the job could not, unless it has: an `error.json` in its place. `user`: do not try again."""
        path = self._dir / "error.json"
        if user or not path.exists():
            where = f" on {job.nodes}" if job.nodes else ""
            message = f"job {job.id} ({self.record['name']}) {what}{where}"
            if "artifact" in what:
                message += f"; do the nodes share {self._dir}?"
            if user:
                message += "; the same command submits it again, and it goes on where it stopped"
            storage.write_json(path, {"type": "Slurm", "message": message, "user": user})
        return FAILED

    def _last_word(self) -> str:
        records, _ = read_events(self._dir / "events.jsonl", self.record["offset"])
        return next((r["name"] for r in reversed(records) if r.get("type") == "event"), "")

    def _closed(self, code: int) -> int:
        self._submission.close()
        return code


def _size(path: Path) -> int:
    with contextlib.suppress(FileNotFoundError):
        return os.stat(path).st_size
    return 0
