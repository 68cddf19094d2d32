"""Telemetry's consumer beside a run: one child of the driver, as soon as a stage records in the store.

One process ships a folder (`ship.lock`): where another does, the child ends at once, and is started anew after a while,
as the other may end before this run. It ends a round after the run, or after the driver was killed; segments of stages
that go on without a driver wait for the next one, or for `stepvideo telemetry ship`.
"""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from stepvideo.stage import StageSpec
from stepvideo.telemetry import segments
from stepvideo.telemetry.schema import FOLDER
from tasks.stages import Outcome, Silent

LOG = "ship.log"
AGAIN_S = 30.0  # before a child that has ended is started anew
END_S = 60.0  # for the last round; what it leaves is there for the next consumer


class Shipping(Silent):
    """Listens to stages, in one thread each; `close` ends the consumer.

    Args:
        store: whose telemetry is shipped.
    """

    def __init__(self, store: Path) -> None:
        self._folder = store / FOLDER
        self._process: subprocess.Popen[bytes] | None = None
        self._next = 0.0
        self._lock = threading.Lock()

    def events(self, spec: StageSpec, records: list[dict[str, Any]], offset: int) -> None:
        self._look()

    def ended(self, spec: StageSpec, outcome: Outcome | None, error: BaseException | None) -> None:
        self._look()

    def close(self) -> None:
        """Have what is closed shipped, and the child ended."""
        if self._process is None:
            return
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(END_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _look(self) -> None:
        """Start a consumer if there is something for it and none runs."""
        with self._lock:
            runs = self._process is not None and self._process.poll() is None
            if runs or time.monotonic() < self._next:
                return
            try:
                if any((self._folder / segments.FOLDER).iterdir()):
                    self._next = time.monotonic() + AGAIN_S
                    self._start()
            except FileNotFoundError:  # nobody records yet
                return
            except OSError as e:  # no reason not to train
                print(f"telemetry: no consumer: {e}", file=sys.stderr)

    def _start(self) -> None:
        command = [sys.executable, "-m", "stepvideo.cli", "telemetry", "ship", str(self._folder), "--child"]
        with (self._folder / LOG).open("ab") as log:
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=log, stderr=log, start_new_session=True
            )
