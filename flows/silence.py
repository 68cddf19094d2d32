"""Says why a stage's line stands still: how long nothing was heard of it, and how busy this machine is."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable

FIRST_S = 60.0  # without news; told again after twice as long, and so on
BUSY = 1.5  # processes a core that want to run


class Silence:
    """Told of each stage's news; says of a stage that has none for a while what it may be, and where to look.

    Args:
        say: called with (stage, sentence), from a thread.
        here: stages run on this machine, so that its load matters.
    """

    def __init__(self, say: Callable[[str, str], None], here: bool = True, first_s: float = FIRST_S) -> None:
        self._say, self._here, self._first_s = say, here, first_s
        self._heard: dict[
            str, tuple[float, float]
        ] = {}  # stage: when it was last heard of, the silence to tell of next
        self._lock = threading.Lock()
        self._closed = threading.Event()

    def heard(self, stage: str) -> None:
        with self._lock:
            self._heard[stage] = time.monotonic(), self._first_s

    def ended(self, stage: str) -> None:
        with self._lock:
            self._heard.pop(stage, None)

    def start(self) -> None:
        threading.Thread(target=self._watch, daemon=True, name="silence").start()

    def stop(self) -> None:
        self._closed.set()

    def look(self) -> None:
        """Tell of every stage that is due."""
        now = time.monotonic()
        with self._lock:
            due = {stage: next_s for stage, (at, next_s) in self._heard.items() if now - at >= next_s}
            for stage, next_s in due.items():
                self._heard[stage] = self._heard[stage][0], 2 * next_s
        for stage, silent_s in due.items():
            why = f"{load}; " if self._here and (load := busy()) else ""
            self._say(stage, f"no news for {silent_s:.0f} s: {why}its output: stepvideo logs {stage} -f")

    def _watch(self) -> None:
        while not self._closed.wait(min(self._first_s / 4, 5.0)):
            self.look()


def busy() -> str:
    """How many processes share this machine's cores, if they are too many; "" otherwise."""
    load, cores = os.getloadavg()[0], len(os.sched_getaffinity(0))
    return (
        f"{load:.0f} processes share the {cores} core{'s' * (cores > 1)} of this machine" if load > BUSY * cores else ""
    )
