"""Where a stage reports: metrics, events and progress. The library knows this protocol and no tracking server.

`JsonlSink` appends one line a record to `events.jsonl` in the stage directory. The driver follows that file and feeds
MLflow and Prefect (`tasks/tracking.py`), so nodes need neither of them and a killed driver loses nothing.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any, Protocol


class Sink(Protocol):
    def metrics(self, step: int, values: Mapping[str, float]) -> None: ...

    def event(self, name: str, **fields: Any) -> None: ...

    def progress(self, done: int, total: int, unit: str = "it") -> None: ...


class NullSink:
    """Drops everything (ranks other than 0, notebooks)."""

    def metrics(self, step: int, values: Mapping[str, float]) -> None: ...

    def event(self, name: str, **fields: Any) -> None: ...

    def progress(self, done: int, total: int, unit: str = "it") -> None: ...


class JsonlSink:
    """Appends records to a file; a line is written whole or, after a kill, is the last and ignored by readers."""

    def __init__(self, path: Path, progress_every_s: float = 0.5) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        _end_torn_line(path)
        self._file: IO[str] = path.open("a", encoding="utf-8", buffering=1)
        self._progress_every_s = progress_every_s
        self._last_progress = 0.0

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        self._write({"type": "metrics", "step": step, "values": {k: float(v) for k, v in values.items()}})

    def event(self, name: str, **fields: Any) -> None:
        self._write({"type": "event", "name": name, **fields})

    def progress(self, done: int, total: int, unit: str = "it") -> None:
        now = time.monotonic()
        if done < total and now - self._last_progress < self._progress_every_s:
            return
        self._last_progress = now
        self._write({"type": "progress", "done": done, "total": total, "unit": unit})

    def close(self) -> None:
        self._file.close()

    def _write(self, record: dict[str, Any]) -> None:
        self._file.write(json.dumps({"time": time.time(), **record}, ensure_ascii=False) + "\n")


def _end_torn_line(path: Path) -> None:
    """A kill can leave half a line; end it, so that the next record starts on a line of its own."""
    if path.exists() and path.stat().st_size:
        with path.open("rb+") as f:
            f.seek(-1, 2)
            if f.read(1) != b"\n":
                f.write(b"\n")


def read_events(path: Path, offset: int = 0) -> tuple[list[dict[str, Any]], int]:
    """Records of `path` from byte `offset` on, and the offset after the last whole line. Torn lines are skipped."""
    if not path.exists():
        return [], offset
    with path.open("rb") as f:
        f.seek(offset)
        data = f.read()
    end = data.rfind(b"\n") + 1
    records = []
    for line in data[:end].splitlines():
        try:
            records.append(json.loads(line))
        except ValueError:
            continue  # torn by a kill
    return records, offset + end


def latest_metrics(path: Path) -> dict[int, dict[str, float]]:
    """Metric rows by step. A resumed job logs some steps again; the last row of a step is the one that counts."""
    rows: dict[int, dict[str, float]] = {}
    for r in read_events(path)[0]:
        if r.get("type") == "metrics":
            rows.setdefault(r["step"], {}).update(r["values"])
    return dict(sorted(rows.items()))
