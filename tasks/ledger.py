"""The driver's notebook in a stage directory: attempts, job ids, tracking ids. It is how a new driver goes on."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

from stepvideo import storage


class Ledger:
    """`ledger.json`: {"attempts": [{number, launcher, pid, host, job_id, started, ended, exit}], "tracking": {…}}."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "ledger.json"
        self._lock = threading.Lock()
        self._data: dict[str, Any] = storage.read_json(self.path) if self.path.exists() else {}

    @property
    def attempts(self) -> list[dict[str, Any]]:
        return self._data.setdefault("attempts", [])

    @property
    def tracking(self) -> dict[str, Any]:
        return self._data.setdefault("tracking", {})

    def begin_attempt(self, **fields: Any) -> int:
        """Append an attempt; returns its number, from 1."""
        with self._lock:
            number = len(self.attempts) + 1
            self.attempts.append({"number": number, **fields})
            self._write()
            return number

    def update_attempt(self, **fields: Any) -> None:
        """Add to the last attempt."""
        with self._lock:
            if self.attempts:
                self.attempts[-1].update(fields)
                self._write()

    def update_tracking(self, **fields: Any) -> None:
        with self._lock:
            self.tracking.update(fields)
            self._write()

    def _write(self) -> None:
        storage.write_json(self.path, self._data)
