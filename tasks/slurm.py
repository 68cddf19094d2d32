"""Stages as Slurm jobs. Each submission has a name of its own, written to `slurm.json` before sbatch is called.

A new driver finds the job by that name and waits for it, whatever became of the last one; ids are for people. Slurm
requeues jobs by itself (node failure, preemption, `scontrol requeue`), and they go on from their `work/`. How a job
ended is taken from the artifact first, then from Slurm, then from what the job itself left in `events.jsonl`.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from stepvideo import artifact, storage
from stepvideo.errors import EXIT_PREEMPTED, ArtifactError, ConfigError
from stepvideo.job import EXIT_BUSY
from stepvideo.sink import read_events
from stepvideo.stage import StageSpec
from tasks import slurm_queue
from tasks.launch import FAILED, TIMED_OUT, Attached, Handle
from tasks.slurm_config import SlurmConfig
from tasks.slurm_queue import Job, Queue, Unheard
from tasks.slurm_script import batch_script

RECORD = "slurm.json"  # in the stage directory, as long as how the submission ended is not known
SETTLE_S = slurm_queue.SUBMIT_S + 10  # after it, an sbatch that was not heard of will not come any more
LAG_S = 60.0  # a shared file system may show so late what a node has written
NOT_STARTED = "launch failed requeued held"  # it would wait for ever; a hold by a person has another reason
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

    def attach(self, stage_dir: Path, ids: dict[str, Any]) -> Handle | None:
        with contextlib.suppress(FileNotFoundError):
            handle = _Submitted(stage_dir, self._queue)
            if not handle.record["cancelled"]:
                return handle
            handle.stop(slurm_queue.ANSWER_S)  # its driver did not get that far
            if (stage_dir / RECORD).exists():
                raise ArtifactError(
                    f"Slurm does not cancel {handle.record['name']}, whose driver was stopped; try later"
                )
        return Attached(stage_dir, ids) if artifact.is_running(stage_dir) else None

    def submit(self, stage_dir: Path, number: int, timeout_s: float) -> Handle:
        with _alone(stage_dir):
            if handle := self.attach(stage_dir, {}):  # another driver was quicker
                return handle
            spec = StageSpec.read(stage_dir / "spec.json")
            record = {
                "name": f"{spec.stage}-{uuid.uuid4().hex[:16]}",
                "time": time.time(),
                "offset": _size(stage_dir / "events.jsonl"),
                "timeout_s": timeout_s,
                "job_id": None,
                "cancelled": False,
            }
            script = stage_dir / "logs" / f"{record['name']}.sbatch"
            text = batch_script(spec.stage, spec.config, stage_dir, number, record["name"], self._config, self._code)
            storage.write_atomic(script, text.encode())
            storage.write_json(stage_dir / RECORD, record)
            (stage_dir / "error.json").unlink(missing_ok=True)  # of an earlier attempt
            try:
                record["job_id"] = slurm_queue.submit(str(script))
                storage.write_json(stage_dir / RECORD, record)
            except Unheard:
                pass
            except ConfigError:
                (stage_dir / RECORD).unlink()
                raise
            except BaseException:  # Ctrl-C: it may be on its way
                _Submitted(stage_dir, self._queue).stop(slurm_queue.ANSWER_S)
                raise
            return _Submitted(stage_dir, self._queue)


class _Submitted:
    """The job, or all elements of the job array, of the record in a stage directory."""

    def __init__(self, stage_dir: Path, queue: Queue) -> None:
        self._dir, self._queue = stage_dir, queue
        self.record: dict[str, Any] = json.loads((stage_dir / RECORD).read_text())
        self.ids: dict[str, Any] = {"job_name": self.record["name"], "job_id": self.record["job_id"]}
        self._since = time.monotonic()
        self._running_since: float | None = None
        self._timed_out = False
        self._ended: float | None = None

    def poll(self) -> int | None:
        name = self.record["name"]
        if (self._dir / "manifest.json").exists():
            slurm_queue.cancel(name, "--state=PENDING")  # requeued although it went on, by a controller that had died
            return self._closed(0)
        jobs = self._queue.jobs(name, self._since)
        if jobs and any(j.reason == NOT_STARTED for j in jobs) and not artifact.is_running(self._dir):
            self.stop(slurm_queue.ANSWER_S)
            return EXIT_PREEMPTED
        if jobs is None or any(j.active for j in jobs):
            self._watch_time(jobs or [])
            return None
        if not jobs and (self._may_come() or artifact.is_running(self._dir)):
            return None
        self._ended = self._ended or time.monotonic()
        if jobs and all(j.state == "COMPLETED" for j in jobs) and time.monotonic() < self._ended + LAG_S:
            return None
        return self._closed(TIMED_OUT if self._timed_out else self._verdict(jobs))

    def stop(self, grace_s: float) -> None:
        """Ask the stage to save and end, then have Slurm cancel the job, whether it runs or waits."""
        name = self.record["name"]
        self._write(cancelled=True)
        slurm_queue.cancel(name, "--state=PENDING")
        slurm_queue.cancel(name, "--signal=TERM", "--state=RUNNING")
        deadline = time.monotonic() + grace_s
        while not self._gone() and time.monotonic() < deadline:
            time.sleep(0.2)
        slurm_queue.cancel(name)
        if self._gone():
            self._closed(0)

    def _gone(self) -> bool:
        jobs = self._queue.jobs(self.record["name"], max_age_s=0.1)
        return jobs is not None and not any(j.active for j in jobs) and not self._may_come()

    def _may_come(self) -> bool:
        """Whether it was never heard that Slurm has the job, and it may be on its way."""
        return not self.record["job_id"] and time.time() < self.record["time"] + SETTLE_S

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
        if job.state == "TIMEOUT":
            return EXIT_PREEMPTED if self._last_word() == "preempted" else TIMED_OUT
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

    def _write(self, **changes: Any) -> None:
        self.record |= changes
        if self._mine():
            storage.write_json(self._dir / RECORD, self.record)

    def _closed(self, code: int) -> int:
        if self._mine():
            (self._dir / RECORD).unlink(missing_ok=True)
        return code

    def _mine(self) -> bool:
        """Another driver at the same stage may have closed this submission and made the next."""
        path = self._dir / RECORD
        return path.exists() and storage.read_json(path)["name"] == self.record["name"]


@contextlib.contextmanager
def _alone(stage_dir: Path) -> Iterator[None]:
    """One driver at a time looks for a submission and makes one."""
    while True:
        with artifact.lock(stage_dir / "submission") as mine:
            if mine:
                yield
                return
        time.sleep(0.1)


def _size(path: Path) -> int:
    with contextlib.suppress(FileNotFoundError):
        return os.stat(path).st_size
    return 0
