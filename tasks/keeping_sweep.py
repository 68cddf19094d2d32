"""Removal: into the store's trash by one rename, then deleted. A kill leaves each thing whole or gone.

A run may begin meanwhile. Each rename happens with the guard of the records held alone, after a look at what came
since: a run tells its record a key before it looks for that in the store, so either gc sees the key, or the run finds
no artifact.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from stepvideo.artifact import Store, is_locked, lock, read_versioned
from stepvideo.errors import ArtifactError
from tasks.keeping import Inputs, Planned, has_job, jobs, live_needs, places
from tasks.keeping_items import TRASH, Item
from tasks.keeping_named import Ref
from tasks.record import RUNS, RunRecord, guard

JOBS_S = 2.0  # so often all stages are looked through for jobs that no run has started
ONE_BY_ONE = ("artifacts", "unfinished")  # a whole directory of a key, whose lock is taken
WITHOUT_JOBS = ("snapshots", "parts", "scratch", "logs")  # only while no run and no job is at work


class Watch:
    """What has changed in a store since a plan was made.

    Args:
        before: the records that the plan was made from.
    """

    def __init__(self, store: Store, before: Iterable[RunRecord], planned: Planned) -> None:
        self._store, self._planned, self._inputs = store, planned, Inputs(store)
        self._first = {r.path: _stamp(r.path) for r in before}
        self._read: dict[Path, tuple[tuple[int, int], RunRecord]] = {}
        self._plans: dict[str, set[Ref]] = {}
        self._jobs: tuple[float, dict[Ref, str]] = (0.0, {})

    def needed(self) -> dict[Ref, str]:
        """What runs need that are alive or told something since the plan, and jobs. With the guard held."""
        everyone = self._records()
        found = self._at_work() | live_needs(everyone, self._plan)
        for record in everyone:
            if self._first.get(record.path) != self._read[record.path][0]:
                found |= {ref: f"run {record.data['id']} came meanwhile" for ref in record.refs.items()}
        return self._inputs.closure(found)

    def is_quiet(self) -> bool:
        """Whether no run and no job is at work."""
        return not any(r.is_live for r in self._records()) and not self._at_work()

    def _plan(self, record: RunRecord) -> set[Ref]:
        if record.data["id"] not in self._plans:
            self._plans[record.data["id"]] = set(self._planned(record))
        return self._plans[record.data["id"]]

    def _at_work(self) -> dict[Ref, str]:
        when, known = self._jobs
        if not when or time.monotonic() - when > JOBS_S:
            known = jobs(places(self._store))
            self._jobs = time.monotonic(), known
        return known

    def _records(self) -> list[RunRecord]:
        now: dict[Path, tuple[tuple[int, int], RunRecord]] = {}
        for path in (self._store.root / RUNS).glob("*/run.json"):
            stamp, known = _stamp(path), self._read.get(path)
            now[path] = known if known and known[0] == stamp else (stamp, RunRecord(path, read_versioned(path)))
        self._read = now
        return [record for _, record in now.values()]


def _stamp(path: Path) -> tuple[int, int]:
    try:
        stat = path.stat()
    except OSError:
        return 0, 0
    return stat.st_mtime_ns, stat.st_ino  # it is written by renames: another file each time


@dataclass(frozen=True)
class Swept:
    """How a removal ended: `stayed` says why it did not happen, empty if it did."""

    item: Item
    stayed: str = ""


@contextlib.contextmanager
def only_gc(store: Store) -> Iterator[None]:
    """Raises ArtifactError where another gc is at work."""
    with lock(store.root / TRASH) as mine:
        if not mine:
            raise ArtifactError(f"another gc is at work in {store.root}; wait for it")
        yield


def sweep(
    store: Store, items: Sequence[Item], watch: Watch, on: Callable[[Swept], None] = lambda _: None
) -> list[Swept]:
    """Remove what is still right to remove, in the order given, which is users before inputs. Under `only_gc`.

    Raises:
        ArtifactError: the store cannot be written.
    """
    done = []
    stayed: set[Ref] = set()  # and with them what they were made from
    inputs = Inputs(store)
    for item in items:
        if item.ref in stayed and item.category in ONE_BY_ONE:
            swept = Swept(item, "what is made from it stays")
        else:
            swept = Swept(item, _take(store, item, watch))
        if swept.stayed and item.ref:
            stayed |= set(inputs.closure({item.ref: ""}))
        done.append(swept)
        on(swept)
    return done


def _take(store: Store, item: Item, watch: Watch) -> str:
    """Move one thing away and delete it; why not, otherwise."""
    if item.category == "trash":
        _delete(item.path)
        return ""
    target = store.root / TRASH / uuid.uuid4().hex[:12] / item.path.parent.name / item.path.name
    with contextlib.ExitStack() as held:
        held.enter_context(guard(store.root / RUNS, alone=True))
        if not item.path.exists() and not item.path.is_symlink():
            return "it is gone already"
        if item.ref and (why := watch.needed().get(item.ref) or _job_at(store, item.ref)):
            return why
        if item.category in WITHOUT_JOBS and not item.ref and not watch.is_quiet():
            return "a run or a job began"
        if item.category == "records" and is_locked(item.path):
            return "its driver lives"
        if item.ref and not held.enter_context(lock(store.dir(*item.ref))):
            return "a job holds it"
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            _move(item.path, target)
        except OSError as e:
            raise ArtifactError(f"cannot move {item.path} to {target}: {e.strerror or e}; nothing of it is lost") from e
    _delete(target.parent.parent)
    return ""


def _job_at(store: Store, ref: Ref) -> str:
    return "a job is at it" if has_job(store.dir(*ref)) else ""


def _move(path: Path, target: Path) -> None:
    try:
        os.replace(path, target)
    except OSError as e:
        if e.errno != errno.EXDEV:  # a working folder or a checkout elsewhere: those are no artifacts
            raise
        _delete(path)


def _delete(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
