"""How far a stage is and when it ends, as a progress artifact of the flow run: "curate: 40 of 200 files, 1:20 left"."""

from __future__ import annotations

import contextlib
import contextvars
import re
import time
from collections.abc import Callable
from typing import Any, cast
from uuid import UUID

import httpx
from prefect.artifacts import create_progress_artifact, update_progress_artifact

from flows.screen import clock
from stepvideo.stage import StageSpec
from tasks.ledger import Ledger
from tasks.stages import Outcome

EVERY_S = 2.0  # at most so often a stage's progress is sent


class Progress:
    """A listener of stages."""

    def __init__(self) -> None:
        self._context = contextvars.copy_context()  # of the flow: events come from other threads
        self._shown: dict[str, tuple[UUID, float]] = {}  # stage: artifact, when it was last sent
        self._first: dict[str, dict[str, Any]] = {}  # stage: the first report of its attempt
        self._done: dict[str, int] = {}  # stage: of its newest report

    def started(self, spec: StageSpec, ledger: Ledger, attached: bool) -> None: ...

    def events(self, spec: StageSpec, records: list[dict[str, Any]], offset: int) -> None:
        rows = [r for r in records if r["type"] == "progress"]
        if not rows:
            return
        last = rows[-1]
        if rows[0]["done"] < self._done.get(spec.stage, 0):  # another attempt, from its checkpoint
            del self._first[spec.stage]
        first = self._first.setdefault(spec.stage, rows[0])
        self._done[spec.stage] = last["done"]
        known, sent = self._shown.get(spec.stage, (None, 0.0))
        now, done, total = time.monotonic(), last["done"], last["total"]
        if now - sent < EVERY_S and done < total:
            return
        said = f"{spec.stage}: {done:,} of {total:,} {last['unit']}{_left(first, last)}"
        with contextlib.suppress(httpx.HTTPError):  # it is only shown
            share = 100.0 * done / max(total, 1)
            if known:
                self._send(update_progress_artifact, artifact_id=known, progress=share, description=said)
            else:
                key = artifact_key("progress", spec.stage)
                known = self._send(create_progress_artifact, progress=share, key=key, description=said)
            self._shown[spec.stage] = cast(UUID, known), now

    def ended(self, spec: StageSpec, outcome: Outcome | None, error: BaseException | None) -> None: ...

    def _send(self, call: Callable[..., Any], **what: Any) -> Any:
        return self._context.copy().run(lambda: call(**what))


def _left(first: dict[str, Any], last: dict[str, Any]) -> str:
    """The time that is left at the pace so far; "" before there is one, and at the end."""
    made, todo = last["done"] - first["done"], last["total"] - last["done"]
    if made <= 0 or todo <= 0:
        return ""
    return f", {clock((last['time'] - first['time']) * todo / made)} left"


def artifact_key(*parts: str) -> str:
    """Prefect takes small letters, digits and dashes."""
    return re.sub(r"[^a-z0-9]+", "-", "-".join(parts).lower()).strip("-")
