"""Preference training with people in it as a Prefect flow: paused while a study is open, resumed when it is closed.

Cascades are its subflows. Who resumes it by hand in the UI before the study is closed pauses it again.
"""

from __future__ import annotations

import contextlib
import itertools
import threading
from pathlib import Path
from typing import Any
from uuid import UUID

from prefect import flow
from prefect.exceptions import NotPausedError
from prefect.flow_runs import pause_flow_run, resume_flow_run
from prefect.runtime import flow_run

from flows.align import POLL_S, Asked, align, is_closed
from flows.cascade import cascade
from flows.parameters import Setting, in_words

PATIENCE_S = 365 * 24 * 3600
_PAUSES = itertools.count()


def _name() -> str:
    given = flow_run.parameters
    return f"align {in_words(given['overrides'], given['until'])}"


@flow(name="align", flow_run_name=_name, retries=0)
def on_policy(overrides: list[Setting], studies: str, until: str = "", study: list[Setting] | None = None) -> Any:
    """The cascade with people's votes.

    Args:
        overrides: Settings of the cascade, "key=value", such as on_policy_rounds=2.
        studies: Folder of the studies, which people are asked in.
        until: The last stage that is wanted; empty: all.
        study: Settings of a study, such as raters=3.
    """
    return align(Asked(list(overrides), studies, until, list(study or [])), cascade, _pause, print)  # type: ignore[arg-type]


def _pause(name: str, folder: Path) -> None:
    """The flow run is Paused in the UI until the study is closed, or somebody resumes it."""
    over = threading.Event()
    watch = threading.Thread(target=_resume_when_closed, args=(flow_run.id, folder, over), daemon=True)
    watch.start()
    try:
        pause_flow_run(timeout=PATIENCE_S, poll_interval=max(1, round(POLL_S / 2)), key=f"{name}-{next(_PAUSES)}")
    finally:
        over.set()
        watch.join()


def _resume_when_closed(run: str, folder: Path, over: threading.Event) -> None:
    """Again and again: it may not be paused yet. A study that cannot be read is for the flow to find."""
    while not over.wait(POLL_S):
        try:
            closed = is_closed(folder)
        except Exception:
            closed = True
        if closed:
            with contextlib.suppress(NotPausedError, RuntimeError):
                resume_flow_run(UUID(run))
