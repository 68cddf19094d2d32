"""What a flow shows in Prefect's UI: the plan, how far each stage is, what it left of its input, verdicts of gates."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from typing import Any, cast
from uuid import UUID

import httpx
from prefect import get_client, task
from prefect.artifacts import (
    create_image_artifact,
    create_link_artifact,
    create_markdown_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)
from prefect.cache_policies import NO_CACHE
from prefect.events import emit_event
from prefect.runtime import flow_run
from prefect.states import Completed, State

from flows.board_logs import Logs
from flows.notify import GATE_EVENT
from flows.plan import plan, plan_rows
from flows.progress import Progress, artifact_key
from flows.session import Session
from flows.slots import Slots
from stepvideo.artifact import Artifact
from stepvideo.errors import ArtifactError
from tasks.figures import figures
from tasks.gates import GateReport
from tasks.preview import preview
from tasks.reap import reap_prefect
from tasks.stages import Outcome

CANCEL_POLL_S = 1.0


@task(name="stage", task_run_name="{name}", cache_policy=NO_CACHE, persist_result=False)
def stage(name: str, call: Callable[[], Any]) -> State[Any]:
    """Make one stage's artifact, or check one. The state is named Cached when it was there."""
    done = call()
    if isinstance(done, Outcome):
        text = f"{done.artifact.out} (digest {done.artifact.digest[:16]})"
        text = f"in the store: {text}" if done.cached else f"{done.attempts} attempts, {done.seconds:.1f} s: {text}"
        if found := figures(done.artifact):
            key = artifact_key("funnel", name)
            create_markdown_artifact(markdown=found.markdown(), key=key, description=found.title)
        _show_samples(name, done.artifact)
    else:
        text = f"data docs: {done.docs_index_path}"
        create_markdown_artifact(markdown=verdict(name, done), key=artifact_key(name), description=text)
    return Completed(name="Cached" if done.cached else None, message=text)


def _show_samples(name: str, made: Artifact) -> None:
    """A moving picture of a stage's samples, and where the files are. It is only shown: none is no error."""
    with contextlib.suppress(ArtifactError, OSError):
        if shown := preview(made):
            text = f"{name}: {', '.join(shown.names)} of {made.out}"
            create_image_artifact(image_url=shown.url, key=artifact_key("samples", name), description=text)


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
        if session.cfg["cluster"]["launcher"] == "slurm":
            session.listeners.append(Slots(session.cfg["cluster"]["slurm"], session.cancel))
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
        run = f"prefect.flow-run.{flow_run.id}"
        resource = {
            "prefect.resource.id": f"stepvideo.gate.{flow_run.id}",
            "prefect.resource.name": flow_run.name or "",
        }
        related = [{"prefect.resource.id": run, "prefect.resource.role": "flow-run"}]
        found = {"failed": [str(f) for f in report.failed], "docs": str(report.docs_index_path)}
        emit_event(GATE_EVENT, resource, related=related, payload=found)
