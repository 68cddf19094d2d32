"""What a driver is doing, in a file: `<store>/_runs/<id>/run.json`. `stepvideo status` and the reaper read it.

The driver holds the folder's lock while it lives, so a record in state "running" with a free lock is a dead driver's.
A record is written under the shared side of a guard: whoever holds it alone (`stepvideo gc`, for one removal at a time)
has seen every key that a run goes on to take from the store.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from stepvideo import storage
from stepvideo.artifact import SCHEMA, Store, is_locked, lock, read_versioned
from stepvideo.errors import ArtifactError

RUNNING, DONE, FAILED, CANCELLED, KILLED = "running", "done", "failed", "cancelled", "killed"
RUNS, GUARD, PIN = "_runs", "guard", "kept"  # the last in a run's folder: gc leaves the run alone


class RunRecord:
    """One invocation of a cascade. `data`: schema, id, state, pid, host, started, ended, config, overrides, until,
    nodes, stages {name: {key, state, seconds, cached, metrics, …}}, tracking {…}."""

    def __init__(self, path: Path, data: dict[str, Any]) -> None:
        self.path, self.data = path, data
        self._lock = threading.Lock()

    def update(self, **fields: Any) -> None:
        with self._lock:
            self.data.update(fields)
            self._write()

    def update_stage(self, name: str, **fields: Any) -> None:
        """Before a stage is looked for in the store its key must be told here, or gc may take it meanwhile."""
        with self._lock:
            self.data["stages"].setdefault(name, {}).update(fields)
            self._write()

    def update_tracking(self, **fields: Any) -> None:
        with self._lock:
            self.data["tracking"].update(fields)
            self._write()

    def _write(self) -> None:
        with guard(self.path.parent.parent):
            storage.write_json(self.path, self.data)

    @property
    def is_live(self) -> bool:
        """Whether its driver is alive; a driver on another host is believed."""
        if self.data["state"] != RUNNING:
            return False
        if self.data["host"] != socket.gethostname():
            return True
        return is_locked(self.path.parent)

    @property
    def state(self) -> str:
        """As recorded; "killed" for one whose driver died without a word."""
        return KILLED if self.data["state"] == RUNNING and not self.is_live else self.data["state"]

    @property
    def refs(self) -> dict[str, str]:
        """{stage: key} of the stages that it came to."""
        return {name: s["key"] for name, s in self.data["stages"].items() if s.get("key")}

    @property
    def is_pinned(self) -> bool:
        return (self.path.parent / PIN).exists()


@contextlib.contextmanager
def guard(runs: Path, alone: bool = False) -> Iterator[None]:
    """Hold the guard of a store's folder of runs, with other writers of records or alone; waits for it.

    Raises:
        ArtifactError: `alone`, and the file system has no locks or the folder cannot be written.
    """
    with contextlib.ExitStack() as held:
        try:
            runs.mkdir(parents=True, exist_ok=True)
            fcntl.flock(held.enter_context((runs / GUARD).open("a+")), fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
        except OSError as e:  # a record is written without it: gc, which needs it, does not run there
            if alone:
                raise ArtifactError(f"cannot lock {runs / GUARD}: {e.strerror or e}; nothing is removed there") from e
        yield


@contextlib.contextmanager
def recorded(store: Store, **fields: Any) -> Iterator[RunRecord]:
    """A record for as long as the body runs; its end says how."""
    name = time.strftime("%Y%m%d-%H%M%S-") + uuid.uuid4().hex[:6]
    folder = store.root / RUNS / name
    about = {"id": name, "state": RUNNING, "pid": os.getpid(), "host": socket.gethostname(), "started": time.time()}
    about |= {"schema": SCHEMA, "ended": None, "stages": {}, "tracking": {}}
    record = RunRecord(folder / "run.json", {**about, **fields})
    with lock(folder):
        record.update()
        try:
            yield record
        except Exception as e:
            record.update(state=FAILED, ended=time.time(), error=str(e))
            raise
        except BaseException:
            record.update(state=CANCELLED, ended=time.time())
            raise
        record.update(state=DONE, ended=time.time())


def records(store: Store) -> list[RunRecord]:
    """Every record, oldest first."""
    found = []
    for path in (store.root / RUNS).glob("*/run.json"):
        try:
            found.append(RunRecord(path, read_versioned(path)))
        except ArtifactError:
            if path.exists():  # else gc took it meanwhile
                raise
    return sorted(found, key=lambda r: r.data["started"])


def find_record(store: Store, name: str) -> RunRecord:
    """The record of a run by its id, or the end or beginning of it that no other has; "last" is the newest.

    Raises:
        ArtifactError: none or several; names them.
    """
    known = records(store)
    found = known[-1:] if name == "last" else [r for r in known if r.data["id"] == name]
    found = found or [r for r in known if r.data["id"].startswith(name) or r.data["id"].endswith(name)]
    if len(found) != 1 or not name:
        ids = ", ".join(r.data["id"] for r in (found or known)[-5:]) or "none"
        which = "is the beginning or end of several runs" if found else "is no run"
        raise ArtifactError(f"{name!r} {which} in {store.root}; there are: {ids} (`stepvideo status --all` lists them)")
    return found[0]
