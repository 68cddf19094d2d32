"""What telemetry tells the watch: slow nodes of the trainings of a store, found in a thread of its own."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from stepvideo.errors import StepVideoError
from stepvideo.mind.classify import Finding

if TYPE_CHECKING:
    from stepvideo.mind.slow import SlowNodes

EVERY_S = 2.0  # between two rounds, as often as recorders write
SHARE = 0.05  # of the time at most is spent in rounds
STALE_S = 60.0  # without a round that ended, after which nothing is known


class Telemetry:
    """Asking never waits: neither for a disk nor for a test. A run that cannot be read has no findings."""

    def __init__(self, folder: Path, said: Callable[[str], None] = print) -> None:
        """folder: of telemetry. said: is told what went wrong, once."""
        self._folder, self._said, self._trouble = folder, said, ""
        self._lock = threading.Lock()
        self._since: dict[str, float] = {}
        self._found: dict[str, tuple[float, dict[str, Finding]]] = {}  # run: when, by node
        self._wake = threading.Event()
        self._thread: threading.Thread | None = None

    def follow(self, run: str, since: float) -> None:
        """Follow the attempt at a run that began then, s since 1970; what was found of earlier ones is gone."""
        with self._lock:
            self._since[run] = since
            self._found.pop(run, None)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, daemon=True, name="stepmind-telemetry")
                self._thread.start()

    def leave(self, run: str) -> None:
        with self._lock:
            self._since.pop(run, None)
            self._found.pop(run, None)
        self._wake.set()

    def findings(self, run: str) -> Mapping[str, Finding]:
        """{node: what is wrong with it} now."""
        when, found = self._found.get(run, (float("-inf"), {}))
        return found if time.monotonic() - when <= STALE_S else {}

    def _run(self) -> None:
        followed: dict[str, tuple[float, SlowNodes]] = {}
        while True:
            began = time.monotonic()
            with self._lock:
                since = dict(self._since)
                if not since:
                    self._thread = None
                    return
            followed = {run: followed[run] for run in followed if since.get(run) == followed[run][0]}
            for run, start in since.items():
                self._look(run, start, followed)
            took = time.monotonic() - began
            self._wake.wait(max(EVERY_S, took / SHARE))
            self._wake.clear()

    def _look(self, run: str, since: float, followed: dict[str, tuple[float, SlowNodes]]) -> None:
        try:
            from stepvideo.mind.slow import SlowNodes

            if run not in followed:
                followed[run] = since, SlowNodes(self._folder, run, since)
            found = followed[run][1].poll()
        except (OSError, StepVideoError, ImportError, ValueError, KeyError) as e:  # the watch goes on without
            found = {}
            followed.pop(run, None)
            if str(e) != self._trouble:
                self._said(f"stepmind: telemetry of {run}: {e}")
            self._trouble = str(e)
        with self._lock:
            if self._since.get(run) == since:
                self._found[run] = time.monotonic(), found
