"""Requests for videos: accepted or refused, queued, made, cancelled, remembered."""

from __future__ import annotations

import hashlib
import io
import logging
import math
import threading
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from stepvideo import storage
from stepvideo.errors import StepVideoError
from stepvideo.inference.serve.engine import Engine, Plan
from stepvideo.inference.serve.errors import Conflict, NotFound, QueueFull, Refused
from stepvideo.inference.serve.jobs import CANCELLED, DONE, FAILED, QUEUED, RUNNING, STOPPED, History, Job, new_id
from stepvideo.inference.serve.limits import Limits
from stepvideo.inference.serve.schema import VideoRequest
from stepvideo.inference.serve.worker import Worker

IMAGES = ("PNG", "JPEG", "WEBP", "AVIF", "GIF", "BMP", "TIFF")  # others run programs (EPS) or are rarely tested
log = logging.getLogger(__name__)


class Cancelled(Exception):
    """Raised inside the sampling loop to leave it."""


class Videos:
    """The jobs of one engine. Safe to call from any thread.

    What was running when an earlier server died is marked failed; what waited is queued again.
    """

    def __init__(self, engine: Engine, history: History, worker: Worker, limits: Limits) -> None:
        self.engine, self.history, self.worker, self.limits = engine, history, worker, limits
        self.closing = False
        self._lock = threading.RLock()
        self._unwanted: set[str] = set()  # ids to leave at the next step
        self._jobs = {job.id: job for job in history.load()}
        for job in self._jobs.values():
            if job.state == RUNNING:
                self._end(job, FAILED, STOPPED)
            elif job.state == QUEUED:
                worker.put(job.id, partial(self._run, job), bounded=False)

    def submit(self, request: VideoRequest, key: str = "") -> Job:
        """Queue a request.

        Args:
            key: the same key again gives the same job.

        Raises:
            Refused, QueueFull, Conflict: the key came with another request.
            StepVideoError: the model cannot do it.
        """
        request.check(self.limits)
        data = request.image_bytes()
        digest = hashlib.sha256(data).hexdigest() if data else ""
        with self._lock:
            job = Job(new_id(), request.options(), key=key, image_digest=digest)
            if earlier := self._same_key(job):
                return earlier
            if data:
                job.image = f"{job.id}.image"
                check_image(data, self.limits)
                storage.write_atomic(self.history.path(job.image), data)
            try:
                plan = self.engine.plan(job.request, self._image(job))
                self._check_size(plan)
                job.settings, job.notices = plan.settings, plan.notices
                self.history.save(job)
                self._queue(job)
            except Exception:
                self.history.drop(job, record=True)
                raise
            self._jobs[job.id] = job
        return job

    def get(self, id: str) -> Job:
        try:
            return self._jobs[id]
        except KeyError:
            raise NotFound(f"there is no video {id!r} on this server") from None

    def file(self, id: str, index: int, preview: bool = False) -> Path:
        """The file of video `index` of a job that is done."""
        job = self.get(id)
        if job.state != DONE:
            raise Conflict(f"video {id} is {job.state}{': ' + job.error if job.error else ''}; it has no file")
        names = job.previews if preview else job.files
        if not 0 <= index < len(names):
            raise NotFound(f"video {id} has no file {index}; it has 0 to {len(names) - 1}")
        path = self.history.path(names[index])
        if not path.is_file():
            raise NotFound(f"{names[index]} was removed from the server's folder")
        return path

    def recent(self, limit: int, before: str = "") -> list[Job]:
        """Up to `limit` jobs, newest first, older than `before`."""
        ids = sorted((i for i in list(self._jobs) if not before or i < before), reverse=True)
        return [self._jobs[i] for i in ids[:limit]]

    def cancel(self, id: str) -> Job:
        """Take a job out of the queue, or end it at its next step. Raises Conflict when it is over already."""
        with self._lock:
            job = self.get(id)
            if job.over and job.state != CANCELLED:
                raise Conflict(f"video {id} is {job.state} already")
            if not job.over:
                self._unwanted.add(id)
                if self.worker.remove(id) or (self.closing and job.state == QUEUED):
                    self._end(job, CANCELLED)
        return job

    def cancelling(self, job: Job) -> bool:
        return job.id in self._unwanted

    def close(self, timeout_s: float) -> None:
        """End the running job as failed; what waits stays queued for the next server."""
        self.closing = True
        if not self.worker.close(timeout_s):
            with self._lock:
                for job in self._jobs.values():
                    if job.state == RUNNING:
                        self._end(job, FAILED, STOPPED)
        self.history.close()

    def _queue(self, job: Job) -> None:
        try:
            self.worker.put(job.id, partial(self._run, job))
        except QueueFull as e:
            running = next((j for j in self._jobs.values() if j.state == RUNNING), None)
            eta = running.progress.eta_s() if running else None
            raise QueueFull(str(e), max(1, math.ceil(eta or e.retry_after))) from None

    def _same_key(self, job: Job) -> Job | None:
        earlier = next((j for j in self._jobs.values() if job.key and j.key == job.key), None)
        if earlier and (earlier.request, earlier.image_digest) != (job.request, job.image_digest):
            raise Conflict(f"the idempotency key {job.key!r} belongs to another request, video {earlier.id}")
        return earlier

    def _check_size(self, plan: Plan) -> None:
        first = plan.settings[0]
        pixels = first["frames"] * first["height"] * first["width"]
        if pixels > self.limits.max_pixels:
            size = f"{first['frames']} frames of {first['height']}x{first['width']}"
            raise Refused(f"{size} are {pixels} pixels; this server makes at most {self.limits.max_pixels}")
        if first["steps"] > self.limits.max_steps:
            raise Refused(
                f"num_inference_steps={first['steps']}: this server does at most {self.limits.max_steps} steps"
            )

    def _image(self, job: Job) -> Path | None:
        return self.history.path(job.image) if job.image else None

    def _run(self, job: Job) -> None:
        if self.closing:
            return  # still queued, for the next server

        def on_step(step: int, total: int) -> None:
            job.progress.report(step, total)
            if self.closing or job.id in self._unwanted:
                raise Cancelled

        try:
            self._begin(job)
            made = self.engine.generate(job.request, self._image(job), self.history.path(job.id), on_step)
        except Cancelled:
            self._end(job, *((CANCELLED, "") if job.id in self._unwanted else (FAILED, STOPPED)))
        except StepVideoError as e:
            self._end(job, FAILED, str(e))
        except Exception as e:
            log.exception("video %s", job.id)
            self._end(job, FAILED, f"{type(e).__name__}: {e}")
        else:
            if job.id in self._unwanted:  # while it was decoded
                return self._end(job, CANCELLED)
            job.files, job.previews = [p.name for p in made.files], [p.name for p in made.previews]
            job.notices = list(dict.fromkeys([*job.notices, *made.notices]))
            self._end(job, DONE)

    def _begin(self, job: Job) -> None:
        with self._lock:
            if job.over or job.id in self._unwanted:
                raise Cancelled
            job.state, job.started = RUNNING, time.time()
            self.history.save(job)

    def _end(self, job: Job, state: str, error: str = "") -> None:
        with self._lock:
            if job.over:
                return
            if state != DONE:
                self.history.drop(job)
            self._unwanted.discard(job.id)
            job.error, job.finished = error, time.time()
            try:
                self.history.save(replace(job, state=state))
            finally:
                job.state = state  # last: who sees it finds the rest in place, also after a crash
                log.info("video %s %s%s", job.id, state, f": {error}" if error else "")


def check_image(data: bytes, limits: Limits) -> None:
    """Refuse what is no image, or so large that decoding it would fill the memory, by its header alone."""
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(io.BytesIO(data), formats=IMAGES) as image:
            width, height = image.size
    except UnidentifiedImageError:
        raise Refused(f"image ({len(data)} bytes) is not an image file of {', '.join(IMAGES)}") from None
    except Exception as e:  # a bomb; or damaged, at which each decoder fails in its own way
        raise Refused(f"image ({len(data)} bytes) is not an image file that can be read: {e}") from e
    if width * height > limits.max_image:
        raise Refused(f"image is {width}x{height}; this server takes at most {limits.max_image} pixels")


def view(videos: Videos, job: Job) -> dict[str, Any]:
    """A job as clients see it."""
    p, base = job.progress, f"/v1/videos/{job.id}"
    total = p.total or sum(s.get("steps", 0) for s in job.settings)
    return {
        "id": job.id,
        "state": job.state,
        "phase": job.phase,
        "position": videos.worker.position(job.id),
        "step": total if job.state == DONE else p.step,
        "total": total,
        "eta_s": p.eta_s() if job.state == RUNNING else None,
        "cancelling": videos.cancelling(job),
        "error": job.error or None,
        "notices": job.notices,
        "created": job.created,
        "started": job.started,
        "finished": job.finished,
        "request": job.request,
        "settings": job.settings,
        "links": {
            "self": base,
            "events": f"{base}/events",
            "files": [f"{base}/file?index={i}" for i in range(len(job.files))],
            "previews": [f"{base}/preview?index={i}" for i in range(len(job.previews))],
        },
    }
