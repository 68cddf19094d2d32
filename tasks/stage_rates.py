"""What the streamed stages that run say of their pipes: the lines `rates` that drivers write (`tasks/producers.py`)."""

from __future__ import annotations

from pathlib import Path

from stepvideo.pipes.balance import Load
from stepvideo.sink import read_events
from tasks.slurm_queue import RECORD


class StageRates:
    """A call gives the newest load of each stage that has said something since the last call."""

    def __init__(self, store: Path) -> None:
        self._store, self._offsets = store, dict[Path, int]()

    def __call__(self) -> list[Load]:
        found = []
        for record in sorted(self._store.glob(f"*/*/{RECORD}")):
            path = record.parent / "producers" / "events.jsonl"
            rows, self._offsets[path] = read_events(path, self._offsets.get(path, 0))
            if said := [r for r in rows if r.get("name") == "rates"]:
                found.append(Load(said[-1]["packs_per_s"], said[-1]["producers_idle"], said[-1]["training_waits"]))
        return found
