"""How far a job raises the memory of its process; to be asked in a fork, which has nothing else to do."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

CLEAR = Path("/proc/self/clear_refs")
MISSING = "" if CLEAR.exists() else "needs Linux's /proc to measure"


def growth(job: Callable[[], object]) -> int:
    """Of the peak, bytes, while `job` runs and its result is held."""
    CLEAR.write_text("5")  # forget the peak so far, and that of who forked this process
    before = _status("VmRSS")
    _result = job()
    return _status("VmHWM") - before


def _status(name: str) -> int:
    return int(Path("/proc/self/status").read_text().split(name + ":")[1].split()[0]) * 1024
