"""A submission to Slurm: a name of its own, noted in a file before sbatch is called, by which its job is found again.

Whoever comes next reads the file and asks Slurm for that name: after a killed driver, after an sbatch whose answer was
lost, after a controller that gave the id to another job. Nothing is submitted twice.
"""

from __future__ import annotations

import contextlib
import json
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from stepvideo import artifact, storage
from stepvideo.errors import ConfigError
from tasks import slurm_queue
from tasks.slurm_queue import Job, Queue, Unheard

SETTLE_S = slurm_queue.SUBMIT_S + 10  # after it, an sbatch that was not heard of will not come any more


class Submission:
    """The one that a file notes; the file stays until how it ended is known.

    `record`: name, time, job_id (for people; None: sbatch was not heard), cancelled, and what the submitter added.
    """

    def __init__(self, path: Path, queue: Queue) -> None:
        """Raises FileNotFoundError: there is none."""
        self.path, self._queue = path, queue
        self.record: dict[str, Any] = json.loads(path.read_text())
        self._since = time.monotonic()

    @classmethod
    def make(cls, path: Path, queue: Queue, prefix: str, script: Callable[[str], str], **fields: Any) -> Submission:
        """Submit `script(name of the job)`, which begins with `prefix`.

        Raises:
            ConfigError: Slurm refused it.
        """
        name = f"{prefix}-{uuid.uuid4().hex[:16]}"
        batch = path.parent / "logs" / f"{name}.sbatch"
        storage.write_atomic(batch, script(name).encode())
        storage.write_json(path, {"name": name, "time": time.time(), "job_id": None, "cancelled": False, **fields})
        made = cls(path, queue)
        try:
            made.write(job_id=slurm_queue.submit(str(batch)))
        except Unheard:
            pass
        except ConfigError:
            path.unlink()
            raise
        except BaseException:  # Ctrl-C: it may be on its way
            made.stop(slurm_queue.ANSWER_S)
            raise
        made._since = time.monotonic()  # what Slurm said before that says nothing of it
        return made

    @property
    def name(self) -> str:
        return self.record["name"]

    def jobs(self, max_age_s: float | None = None) -> list[Job] | None:
        """See `Queue.jobs`."""
        return self._queue.jobs(self.name, self._since, max_age_s)

    def may_come(self) -> bool:
        """Whether it was never heard that Slurm has the job, and it may be on its way."""
        return not self.record["job_id"] and time.time() < self.record["time"] + SETTLE_S

    def stop(self, grace_s: float) -> None:
        """Ask what runs to save and end, then have Slurm cancel the job, whether it runs or waits."""
        self.write(cancelled=True)
        slurm_queue.cancel(self.name, "--state=PENDING")
        slurm_queue.cancel(self.name, "--signal=TERM", "--state=RUNNING")
        deadline = time.monotonic() + grace_s
        while not self._gone() and time.monotonic() < deadline:
            time.sleep(0.2)
        slurm_queue.cancel(self.name)
        if self._gone():
            self.close()

    def close(self) -> None:
        """How it ended is known."""
        if self._mine():
            self.path.unlink(missing_ok=True)

    def write(self, **changes: Any) -> None:
        self.record |= changes
        if self._mine():
            storage.write_json(self.path, self.record)

    def _gone(self) -> bool:
        jobs = self.jobs(max_age_s=0.1)
        return jobs is not None and not any(j.active for j in jobs) and not self.may_come()

    def _mine(self) -> bool:
        """Another driver may have closed this one and made the next."""
        try:
            return json.loads(self.path.read_text())["name"] == self.name
        except FileNotFoundError:
            return False


@contextlib.contextmanager
def alone(lock: Path) -> Iterator[None]:
    """One driver at a time looks for a submission and makes one."""
    while True:
        with artifact.lock(lock) as mine:
            if mine:
                yield
                return
        time.sleep(0.1)
