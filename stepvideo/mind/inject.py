"""Made-up readings, for tests of what follows from them. Only an agent that was started with `--inject` reads them.

The file that STEPVIDEO_MIND_INJECT names is JSON: {"NODE": changes, "*": changes}. Changes replace parts of a snapshot;
those of mappings replace their entries. {"mute": true}: no snapshot; {"kernel": ["NVRM: Xid …"]}: lines of the kernel's
log; {"gpu_power": 90}: of all GPUs, of which it makes one where there is none; {"job": {"cpu": 0}}: of all jobs.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

INJECT = "STEPVIDEO_MIND_INJECT"


class Injection:
    """Reads the file anew for every snapshot; one that is absent or half-written changes nothing."""

    def __init__(self, path: Path) -> None:
        self._path = path

    @classmethod
    def asked(cls) -> Injection:
        """Raises KeyError: the variable does not say which file."""
        return cls(Path(os.environ[INJECT]))

    def apply(self, snapshot: dict[str, Any]) -> dict[str, Any]:
        try:
            given = json.loads(self._path.read_text())
        except (OSError, ValueError):
            return snapshot
        for changes in (given.get("*"), given.get(snapshot["node"])):
            if changes:
                snapshot = _changed(snapshot, changes)
        return snapshot


def _changed(snapshot: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    changes = dict(changes)
    changed = dict(snapshot)
    if lines := changes.pop("kernel", None):
        changed["kernel"] = [*snapshot.get("kernel", ()), *({"age_s": 0.0, "line": line} for line in lines)]
    if (power := changes.pop("gpu_power", None)) is not None:
        changed["gpus"] = [g | {"power": power} for g in snapshot.get("gpus") or [{"index": 0}]]
    if job := changes.pop("job", None):
        changed["jobs"] = {name: row | job for name, row in snapshot.get("jobs", {}).items()}
    for name, value in changes.items():
        old = changed.get(name)
        changed[name] = {**old, **value} if isinstance(old, dict) and isinstance(value, dict) else value
    return changed
