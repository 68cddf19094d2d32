"""MLflow, for a server that may go away for a while: what it missed is told in the same order once it answers again.

Training goes on meanwhile. What is still untold at the end of the run stands in the ledgers, and the next run tells it.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from stepvideo.stage import StageSpec
from tasks.ledger import Ledger
from tasks.stages import Outcome
from tasks.tracking import Tracking

PAUSE_S = 5.0  # between attempts
END_S = 30.0  # that the end of a run waits for a server that has gone away


class PatientTracking(Tracking):
    """A `Tracking` whose calls are kept while they fail."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._untold: deque[tuple[Callable[..., None], tuple[Any, ...]]] = deque()
        self._again = 0.0
        self._patience = END_S
        self._turn = threading.RLock()

    def open(self, before: Callable[[], object]) -> None:
        self._tell(super().open, before)

    def started(self, spec: StageSpec, ledger: Ledger, attached: bool) -> None:
        self._tell(super().started, spec, ledger, attached)

    def events(self, spec: StageSpec, records: list[dict[str, Any]], offset: int) -> None:
        self._tell(super().events, spec, records, offset)

    def ended(self, spec: StageSpec, outcome: Outcome | None, error: BaseException | None) -> None:
        self._tell(super().ended, spec, outcome, error)

    def close(self, error: BaseException | None = None) -> None:
        self._tell(super().close, error)
        self.settle()

    def settle(self) -> None:
        """Wait until all is told, once and not for ever; `broken` says why it is not.

        A server that never answered, perhaps as its address is wrong, is not waited for.
        """
        while self.parent and self._untold and self._patience > 0:
            at = time.monotonic()
            time.sleep(0.5)
            self._catch_up()
            self._patience -= time.monotonic() - at

    def _tell(self, call: Callable[..., None], *args: Any) -> None:
        with self._turn:
            self._untold.append((call, args))
            self._catch_up()

    def _catch_up(self) -> None:
        """Tell what was not told, in its order, up to the first call that fails."""
        with self._turn:
            if self.broken and time.monotonic() < self._again:
                return
            while self._untold:
                call, args = self._untold[0]
                self.broken = ""
                call(*args)
                if self.broken:
                    self._again = time.monotonic() + PAUSE_S
                    return
                self._untold.popleft()
