"""What a driver is doing, in a file: `<store>/_runs/<id>/run.json`. `stepvideo status` and the reaper read it.

The driver holds the folder's lock while it lives, so a record in state "running" with a free lock is a dead driver's.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from stepvideo import storage
from stepvideo.artifact import Store, is_locked, lock

RUNNING, DONE, FAILED, CANCELLED, KILLED = "running", "done", "failed", "cancelled", "killed"


class RunRecord:
    """One invocation of a cascade. `data`: id, state, pid, host, started, ended, config, overrides, until, nodes,
    stages {name: {key, state, seconds, cached, metrics, …}}, tracking {…}."""

    def __init__(self, path: Path, data: dict[str, Any]) -> None:
        self.path, self.data = path, data
        self._lock = threading.Lock()

    def update(self, **fields: Any) -> None:
        with self._lock:
            self.data.update(fields)
            storage.write_json(self.path, self.data)

    def update_stage(self, name: str, **fields: Any) -> None:
        with self._lock:
            self.data["stages"].setdefault(name, {}).update(fields)
            storage.write_json(self.path, self.data)

    def update_tracking(self, **fields: Any) -> None:
        with self._lock:
            self.data["tracking"].update(fields)
            storage.write_json(self.path, self.data)

    @property
    def is_live(self) -> bool:
        """Whether its driver is alive; a driver on another host is believed."""
        if self.data["state"] != RUNNING:
            return False
        if self.data["host"] != socket.gethostname():
            return True
        return is_locked(self.path.parent)


@contextlib.contextmanager
def recorded(store: Store, **fields: Any) -> Iterator[RunRecord]:
    """A record for as long as the body runs; its end says how."""
    name = time.strftime("%Y%m%d-%H%M%S-") + uuid.uuid4().hex[:6]
    folder = store.root / "_runs" / name
    about = {"id": name, "state": RUNNING, "pid": os.getpid(), "host": socket.gethostname(), "started": time.time()}
    record = RunRecord(folder / "run.json", {**about, "ended": None, "stages": {}, "tracking": {}, **fields})
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
    found = [RunRecord(p, storage.read_json(p)) for p in (store.root / "_runs").glob("*/run.json")]
    return sorted(found, key=lambda r: r.data["started"])
