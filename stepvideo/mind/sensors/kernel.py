"""Lines of the kernel's log that tell a fault, for some minutes after they came."""

from __future__ import annotations

import contextlib
import os
from collections import deque
from pathlib import Path
from typing import Any

from stepvideo.mind.classify import from_kernel

KEEP_S = 600.0
KEPT = 20
READ = 200  # records at a time


class KernelLog:
    """From the moment at which it is opened. Empty where /dev/kmsg may not be read."""

    def __init__(self, path: Path = Path("/dev/kmsg")) -> None:
        self._lines: deque[tuple[float, str]] = deque(maxlen=KEPT)
        self._file = -1
        with contextlib.suppress(OSError):
            self._file = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
            os.lseek(self._file, 0, os.SEEK_END)

    def read(self, now: float) -> dict[str, Any]:
        """{kernel: [{age_s, line}]}."""
        for line in self._new():
            self.add(now, line)
        while self._lines and self._lines[0][0] < now - KEEP_S:
            self._lines.popleft()
        return {"kernel": [{"age_s": round(now - t, 1), "line": line} for t, line in self._lines]}

    def add(self, now: float, line: str) -> None:
        if from_kernel([line]):
            self._lines.append((now, line))

    def _new(self) -> list[str]:
        found: list[str] = []
        for _ in range(READ if self._file >= 0 else 0):
            try:
                record = os.read(self._file, 8192)
            except BrokenPipeError:  # the kernel was quicker: some are lost
                continue
            except OSError:
                break
            if not record:
                break
            found += [r.partition(";")[2] for r in record.decode(errors="replace").splitlines() if ";" in r]
        return found
