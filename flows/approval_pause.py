"""The part of asking a person that is Prefect's: the flow run is Paused, with a form, an artifact and an event."""

from __future__ import annotations

import contextlib
import contextvars
import threading
import time
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
from prefect import get_client
from prefect.artifacts import create_markdown_artifact
from prefect.events import emit_event
from prefect.exceptions import FlowPauseTimeout, NotPausedError
from prefect.flow_runs import pause_flow_run, resume_flow_run
from prefect.input import RunInput
from prefect.runtime import flow_run
from pydantic import Field

from flows.approval_file import Answer, answer_of, give

EVENT = "stepvideo.approval.waiting"
POLL_S = 2.0


class Approval(RunInput):
    """The form of the paused run."""

    approved: bool = Field(description="Tick to approve; leave it empty to reject")
    by: str = Field(min_length=1, description="Your name, which is recorded with the decision")
    note: str = Field(default="", description="Why")


def about() -> dict[str, Any]:
    """The flow run that waits."""
    return {"flow_run": str(flow_run.id), "flow_run_name": flow_run.name}


def holds_a_slot() -> bool:
    """Whether this run counts against the `concurrency_limit` of its deployment.

    Prefect 3.8 takes the slot away when a run pauses, and ends the run some minutes later as it no longer has it.
    """
    with contextlib.suppress(httpx.HTTPError), get_client(sync_client=True) as client:
        state = client.read_flow_run(UUID(str(flow_run.id))).state
        return bool(state and state.state_details.deployment_concurrency_lease_id)
    return False


def pause(store: Path, asked: dict[str, Any], timeout_s: float) -> None:
    """Paused until there is an answer, which is recorded in the store; returns too if the server is lost meanwhile, and
    at once if a pause would be the run's end: then it goes on as Running, and only the file is waited for."""
    text = f"# {asked['question']}\n\n[{asked['evidence']}]({asked['evidence']})\n\n`{asked['command']}`\n"
    with contextlib.suppress(httpx.HTTPError):
        create_markdown_artifact(markdown=text, key="approval", description=asked["question"])
    resource = {"prefect.resource.id": f"stepvideo.approval.{asked['key']}", "prefect.resource.name": asked["question"]}
    flow = {"prefect.resource.id": f"prefect.flow-run.{flow_run.id}", "prefect.resource.role": "flow-run"}
    emit_event(EVENT, resource, related=[flow | {"prefect.resource.name": str(flow_run.name)}], payload=asked)
    if holds_a_slot():
        return
    over = threading.Event()
    args = (_resume_when_answered, UUID(str(flow_run.id)), store, asked["key"], over)
    run = contextvars.copy_context().run  # Prefect keeps its settings there
    watch = threading.Thread(target=run, args=args, daemon=True, name="approval")
    watch.start()
    form = Approval.with_initial_data(description=text)
    try:
        said = pause_flow_run(
            wait_for_input=form,
            timeout=max(1, round(timeout_s)),
            poll_interval=max(1, round(POLL_S)),
            key=f"approval-{asked['key']}",
        )
        give(store, asked["key"], Answer(said.approved, said.by, said.note, time.time()))
    except (FlowPauseTimeout, httpx.HTTPError):  # the file is still waited for, if there is time left
        pass
    finally:
        over.set()
        watch.join()


def _resume_when_answered(run: UUID, store: Path, key: str, over: threading.Event) -> None:
    """Again and again: it may not be paused yet, or its server may be away."""
    while not over.wait(POLL_S / 2):
        if known := answer_of(store, key):
            said = {"approved": known.approved, "by": known.by, "note": known.note}
            with contextlib.suppress(NotPausedError, RuntimeError, httpx.HTTPError):
                resume_flow_run(run, run_input=said)


def paused_runs() -> list[Any]:
    """Flow runs of the server that wait for a person."""
    from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterState, FlowRunFilterStateType
    from prefect.client.schemas.objects import StateType

    found = FlowRunFilter(state=FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.PAUSED])))
    with get_client(sync_client=True) as client:
        return client.read_flow_runs(flow_run_filter=found)
