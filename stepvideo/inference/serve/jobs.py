"""A requested video from the queue to its files, and the folder that remembers all of them."""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import re
import secrets
import time
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from stepvideo import storage
from stepvideo.errors import ArtifactError, StepVideoError

QUEUED, RUNNING, DONE, FAILED, CANCELLED = "queued", "running", "done", "failed", "cancelled"
STATES = (QUEUED, RUNNING, DONE, FAILED, CANCELLED)
STOPPED = "the server stopped while it made this video; ask for it again"

log = logging.getLogger(__name__)
_ID = re.compile(r"\d{8}-\d{6}-\d{6}-[0-9a-f]{4}")  # of `new_id`


@dataclass
class Progress:
    """Steps done, and how fast. Times are of `time.monotonic`."""

    step: int = 0
    total: int = 0
    first: float = 0.0  # when the first step was done: before it, weights were loaded
    last: float = 0.0

    def report(self, step: int, total: int) -> None:
        self.step, self.total, self.last = step, total, time.monotonic()
        self.first = self.first or self.last

    def eta_s(self) -> float | None:
        """Seconds to the last step; None until two steps were timed."""
        if self.step < 2:
            return None
        pace = (self.last - self.first) / (self.step - 1)
        return max(pace * (self.total - self.step) - (time.monotonic() - self.last), 0.0)


@dataclass
class Job:
    """One request. Times are seconds since the epoch; files are names in the history's folder."""

    id: str
    request: dict[str, Any]  # as it was asked, without the image
    created: float = field(default_factory=time.time)
    state: str = QUEUED
    started: float | None = None
    finished: float | None = None
    error: str = ""
    notices: list[str] = field(default_factory=list)
    settings: list[dict[str, Any]] = field(default_factory=list)  # resolved, one a video
    files: list[str] = field(default_factory=list)
    previews: list[str] = field(default_factory=list)
    image: str = ""
    image_digest: str = ""
    key: str = ""  # Idempotency-Key
    progress: Progress = field(default_factory=Progress)  # not kept

    @property
    def over(self) -> bool:
        return self.state in (DONE, FAILED, CANCELLED)

    @property
    def phase(self) -> str:
        """What a running one is at; "" for any other."""
        if self.state != RUNNING:
            return ""
        p = self.progress
        return "loading" if p.step == 0 else "denoising" if p.step < p.total else "decoding"


def new_id() -> str:
    """Unique, and in the order of time."""
    return f"{datetime.now(UTC):%Y%m%d-%H%M%S-%f}-{secrets.token_hex(2)}"


class History:
    """`<id>.json` beside `<id>-0.mp4` and `<id>-0.png` in one folder, which one server at a time holds."""

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock = (self.folder / ".lock").open("w")
        except OSError as e:
            raise ArtifactError(f"cannot write to {self.folder}: {e.strerror}; choose another --out") from e
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StepVideoError(f"another server writes to {self.folder}; stop it, or choose another --out") from None

    def close(self) -> None:
        self._lock.close()

    def save(self, job: Job) -> None:
        kept = {k: v for k, v in asdict(job).items() if k != "progress"}
        storage.write_json(self.folder / f"{job.id}.json", kept)

    def load(self) -> list[Job]:
        """All jobs, oldest first. A file that is not one of ours is left alone, with a warning."""
        jobs = []
        for path in sorted(self.folder.glob("*.json")):
            try:
                jobs.append(_read(path))
            except ArtifactError as e:
                log.warning("not in the history: %s", e)
        return jobs

    def path(self, name: str) -> Path:
        return self.folder / name

    def drop(self, job: Job, record: bool = False) -> None:
        """Remove what was written for a job, and its record if asked; what cannot be removed stays."""
        records = [self.path(job.id + suffix) for suffix in (".json", ".image")] if record else []
        for path in [*self.folder.glob(f"{job.id}-*"), *records]:
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)


_RECORD = TypeAdapter(Job)
_KNOWN = {f.name for f in fields(Job)} - {"progress"}


def _read(path: Path) -> Job:
    """A record as it was saved: other programs may write to the folder, and its files are handed out.

    Raises:
        ArtifactError: it is something else, or names files that are not the job's own.
    """
    data = storage.read_json(path)
    try:
        json.dumps(data, ensure_ascii=False, allow_nan=False).encode()  # else no view of it could be sent
        job = _RECORD.validate_python(data)
    except ValueError as e:
        reason = e.errors()[0]["msg"] if isinstance(e, ValidationError) else e
        raise ArtifactError(f"{path} is no record of a video: {reason}") from None
    own = re.compile(rf"{re.escape(job.id)}(-\d+\.(mp4|png)|\.image)")
    names = [*job.files, *job.previews, *filter(None, [job.image])]
    if job.id != path.stem or not _ID.fullmatch(job.id) or not set(data) <= _KNOWN or job.state not in STATES:
        raise ArtifactError(f"{path} is no record of a video")
    if not all(own.fullmatch(name) for name in names):
        raise ArtifactError(f"{path} names files that are not its own")
    return job
