"""What a stage's jobs print, in the log of its Prefect task run: always the newest lines, never a flood."""

from __future__ import annotations

import contextvars
import logging
import threading
from pathlib import Path
from typing import Any

from prefect.context import TaskRunContext
from prefect.logging.handlers import APILogHandler

from stepvideo.artifact import Store
from stepvideo.stage import StageSpec
from tasks.ledger import Ledger
from tasks.logs import Tail
from tasks.stages import Outcome

EVERY_S = 1.0
BYTES = 8192  # of one stage, each time
WIDTH = 2000  # characters of a line


class Logs:
    """A listener of stages. Its lines go to Prefect's API and not to the terminal, which has a screen of its own."""

    def __init__(self) -> None:
        self._followed: dict[str, _Followed] = {}

    def started(self, spec: StageSpec, ledger: Ledger, attached: bool) -> None:
        """Called inside the stage's task run."""
        context = TaskRunContext.get()
        if context:
            first = len(ledger.attempts) + (not attached)
            ids = {"flow_run_id": str(context.task_run.flow_run_id), "task_run_id": str(context.task_run.id)}
            directory = Store(spec.store).dir(spec.stage, spec.key)
            self._followed[spec.stage] = _Followed(directory, max(first, 1), logging.LoggerAdapter(_logger(), ids))

    def events(self, spec: StageSpec, records: list[dict[str, Any]], offset: int) -> None:
        if followed := self._followed.get(spec.stage):
            for r in records:
                if r["type"] == "queue" and r["said"]:
                    followed.log.info("job %s", r["said"])
                elif r.get("name") in ("preempted", "failed"):
                    followed.log.warning("%s %s", r["name"], r.get("error", ""))

    def ended(self, spec: StageSpec, outcome: Outcome | None, error: BaseException | None) -> None:
        if followed := self._followed.pop(spec.stage, None):
            followed.close()
            if error:
                followed.log.error("%s", error)


class _Followed:
    """A thread that reads a stage's logs for as long as the stage is not ended."""

    def __init__(self, directory: Path, first: int, log: logging.LoggerAdapter[logging.Logger]) -> None:
        self.log, self._tail = log, Tail(directory, first, BYTES)
        self._done = threading.Event()
        run = contextvars.copy_context().run  # Prefect keeps its settings there
        self._thread = threading.Thread(target=run, args=(self._follow,), daemon=True, name=f"logs-{directory.parent}")
        self._thread.start()

    def close(self) -> None:
        self._done.set()
        self._thread.join()

    def _follow(self) -> None:
        while not self._done.wait(EVERY_S):
            self._send()
        self._send(end=True)

    def _send(self, end: bool = False) -> None:
        for element, line in self._tail.read(end):
            if line.strip():
                self.log.info("%s%s", f"[{element}] " if element else "", line[:WIDTH])


def _logger() -> logging.Logger:
    logger = logging.getLogger("stepvideo.jobs")
    if not logger.handlers:
        logger.addHandler(APILogHandler())
        logger.setLevel(logging.INFO)
        logger.propagate = False
    return logger
