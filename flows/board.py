"""What a flow shows in Prefect's UI: the plan, how far each stage is, what it left of its input, verdicts of gates."""

from __future__ import annotations

import contextlib
import contextvars
import re
import threading
import time
from collections.abc import Callable
from typing import Any, cast
from uuid import UUID

import httpx
from prefect import get_client, task
from prefect.artifacts import (
    create_link_artifact,
    create_markdown_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)
from prefect.cache_policies import NO_CACHE
from prefect.runtime import flow_run
from prefect.states import Completed, State

from flows.board_logs import Logs
from flows.plan import plan, plan_rows
from flows.session import Session
from stepvideo.stage import StageSpec
from tasks.figures import figures
from tasks.gates import GateReport
from tasks.ledger import Ledger
from tasks.reap import reap_prefect
from tasks.stages import Outcome

CANCEL_POLL_S = 1.0
PROGRESS_S = 2.0  # at most so often a stage's progress is sent


@task(name="stage", task_run_name="{name}", cache_policy=NO_CACHE, persist_result=False)
def stage(name: str, call: Callable[[], Any]) -> State[Any]:
    """Make one stage's artifact, or check one. The state is named Cached when it was there."""
    done = call()
    if isinstance(done, Outcome):
        text = f"{done.artifact.out} (digest {done.artifact.digest[:16]})"
        text = f"in the store: {text}" if done.cached else f"{done.attempts} attempts, {done.seconds:.1f} s: {text}"
        if found := figures(done.artifact):
            create_markdown_artifact(markdown=found.markdown(), key=_key("funnel", name), description=found.title)
    else:
        text = f"data docs: {done.docs_index_path}"
        create_markdown_artifact(markdown=verdict(name, done), key=_key(name), description=text)
    return Completed(name="Cached" if done.cached else None, message=text)


def _unanswered(error: BaseException | None) -> bool:
    """Whether an error comes from a server that did not answer."""
    while error and not isinstance(error, httpx.HTTPError):
        error = error.__cause__ or error.__context__
    return error is not None


def verdict(name: str, report: GateReport) -> str:
    """What a gate found, as Markdown."""
    found = "\n".join(f"- {f}" for f in [*report.failed, *report.warnings])
    said = f"{report.checked} expectations, {len(report.failed)} failed, {len(report.warnings)} warnings"
    return f"# {name}\n\n{said}. Data Docs: `{report.docs_index_path}`\n\n{found}\n"


class Board:
    """Shows a run; also a listener of its stages.

    "Cancel" in the UI asks a worker, and a flow that was started from a terminal has none, so it is watched for here.
    """

    def __init__(self) -> None:
        self._closed = threading.Event()

    def close(self) -> None:
        self._closed.set()

    def _watch(self, flow_run_id: str, cancel: threading.Event) -> None:
        with get_client(sync_client=True) as client:
            while not self._closed.wait(CANCEL_POLL_S):
                with contextlib.suppress(httpx.HTTPError):
                    state = client.read_flow_run(UUID(flow_run_id)).state
                    if state and (state.is_cancelling() or state.is_cancelled()):
                        cancel.set()
                        return

    def opened(self, session: Session) -> None:
        args = (str(flow_run.id), session.cancel)
        threading.Thread(target=self._watch, args=args, daemon=True, name="watch-cancel").start()
        session.record.update_tracking(flow_run=str(flow_run.id))
        session.listeners += [Progress(), Logs()]
        reap_prefect(session.store)
        steps = plan(session.nodes, session.store, session.code)
        create_table_artifact(table=plan_rows(steps), key="plan", description="What this run does and why")
        self._total, self._done = len(session.nodes), 0
        self._progress = create_progress_artifact(progress=0.0, key="cascade-progress", description="Stages done")
        if session.tracking and session.tracking.parent:
            link = session.tracking.server.link(session.tracking.parent)
            create_link_artifact(link=link, key="mlflow", link_text="MLflow run", description="Metrics of this run")

    def step(self, name: str, call: Callable[[], Any]) -> Any:
        """Run `call` inside a Prefect task; what it returns comes back past Prefect, which need not store it.

        A Prefect server that does not answer any more only loses sight of the run.
        """
        kept: list[Any] = []
        failed: list[BaseException] = []

        def keep() -> Any:
            try:
                kept.append(call())
            except BaseException as e:
                failed.append(e)
                raise
            return kept[0]

        try:
            stage(name, keep, return_state=True)
        except Exception as e:
            if not _unanswered(e):
                raise
            if not kept and not failed:
                keep()
        if failed:
            raise failed[0]
        self._done += isinstance(kept[0], Outcome)
        with contextlib.suppress(httpx.HTTPError):
            update_progress_artifact(cast(UUID, self._progress), progress=100.0 * self._done / self._total)
        return kept[0]

    def gate_failed(self, report: GateReport) -> None:
        create_markdown_artifact(markdown=verdict("A gate failed", report), key="gate")


class Progress:
    """A listener: how far a stage is ("curate: 40 of 200 files"), as a progress artifact of the flow run."""

    def __init__(self) -> None:
        self._context = contextvars.copy_context()  # of the flow: events come from other threads
        self._shown: dict[str, tuple[UUID, float]] = {}  # stage: artifact, when it was last sent

    def started(self, spec: StageSpec, ledger: Ledger, attached: bool) -> None: ...

    def events(self, spec: StageSpec, records: list[dict[str, Any]], offset: int) -> None:
        last = next((r for r in reversed(records) if r["type"] == "progress"), None)
        if last is None:
            return
        known, sent = self._shown.get(spec.stage, (None, 0.0))
        now, done, total = time.monotonic(), last["done"], last["total"]
        if now - sent < PROGRESS_S and done < total:
            return
        said = f"{spec.stage}: {done:,} of {total:,} {last['unit']}"
        with contextlib.suppress(httpx.HTTPError):  # it is only shown
            share = 100.0 * done / max(total, 1)
            if known:
                self._send(update_progress_artifact, artifact_id=known, progress=share, description=said)
            else:
                key = _key("progress", spec.stage)
                known = self._send(create_progress_artifact, progress=share, key=key, description=said)
            self._shown[spec.stage] = cast(UUID, known), now

    def ended(self, spec: StageSpec, outcome: Outcome | None, error: BaseException | None) -> None: ...

    def _send(self, call: Callable[..., Any], **what: Any) -> Any:
        return self._context.copy().run(lambda: call(**what))


def _key(*parts: str) -> str:
    """Prefect takes small letters, digits and dashes."""
    return re.sub(r"[^a-z0-9]+", "-", "-".join(parts).lower()).strip("-")
