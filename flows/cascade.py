"""The cascade as a Prefect flow: one task a stage, cached ones shown as cached. The work is in tasks/.

Prefect's own cache and retries are off: the store knows what is there (flows/plan.py), the launcher what to try again.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any, cast
from uuid import UUID

import httpx
from prefect import flow, get_client, task
from prefect.artifacts import (
    create_link_artifact,
    create_markdown_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)
from prefect.cache_policies import NO_CACHE
from prefect.runtime import flow_run
from prefect.states import Cancelled as CancelledState
from prefect.states import Completed, State

from flows.compose import chosen
from flows.plan import plan, plan_rows
from flows.prepared import Prepared, run_prepared, summary
from flows.session import Session
from tasks.reap import reap_prefect
from tasks.stages import Cancelled, Outcome

CANCEL_POLL_S = 2.0
PREPARED: ContextVar[Prepared | None] = ContextVar("prepared", default=None)


def _name() -> str:
    """The name of a flow run: its profile, and where it ends."""
    overrides, until = flow_run.parameters["overrides"] or [], flow_run.parameters["until"]
    profile = chosen(overrides, "profile", "micro")
    return f"{profile} until {until}" if until else profile


@flow(name="cascade", flow_run_name=_name, retries=0)
def cascade(overrides: list[str] | None = None, until: str | None = None) -> list[dict[str, Any]] | State[Any]:
    """Raw clips to an evaluated, distilled model. The parameters are JSON: editable in the UI, storable in a schedule.

    Args:
        overrides: settings, "key=value".
        until: the last stage that is wanted.

    Returns:
        One dict a stage: stage, key, digest, cached, seconds, metrics, path.
    """
    prepared = PREPARED.get() or Prepared.make(list(overrides or []), until)
    board = _Board()
    try:
        prepared.results = run_prepared(prepared, board)
    except Exception as e:
        prepared.error = e
        raise
    except Cancelled as e:
        prepared.error = e
        return CancelledState(message=str(e))
    finally:
        board.close()
    return summary(prepared.results)


@task(name="stage", task_run_name="{name}", cache_policy=NO_CACHE, persist_result=False)
def stage(name: str, call: Callable[[], Any]) -> State[Any]:
    """Make one stage's artifact, or check one. The state is named Cached when it was there."""
    done = call()
    if isinstance(done, Outcome):
        text = f"{done.artifact.out} (digest {done.artifact.digest[:16]})"
        text = f"in the store: {text}" if done.cached else f"{done.attempts} attempts, {done.seconds:.1f} s: {text}"
    else:
        text = str(done)
    return Completed(name="Cached" if done.cached else None, message=text)


class _Board:
    """What the flow shows in Prefect's UI: the plan, progress, links, and why a gate stopped it.

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
        reap_prefect(session.store)
        steps = plan(session.nodes, session.store, session.code)
        create_table_artifact(table=plan_rows(steps), key="plan", description="What this run does and why")
        self._total, self._done = len(session.nodes), 0
        self._progress = create_progress_artifact(progress=0.0, key="cascade-progress", description="Stages done")
        if session.tracking and session.tracking.parent:
            link = session.tracking.server.link(session.tracking.parent)
            create_link_artifact(link=link, key="mlflow", link_text="MLflow run", description="Metrics of this run")

    def step(self, name: str, call: Callable[[], Any]) -> Any:
        """Run `call` inside a Prefect task; what it returns comes back past Prefect, which need not store it."""
        kept: list[Any] = []
        failed: list[BaseException] = []

        def keep() -> Any:
            try:
                kept.append(call())
            except BaseException as e:
                failed.append(e)
                raise
            return kept[0]

        stage(name, keep, return_state=True)
        if failed:
            raise failed[0]
        self._done += isinstance(kept[0], Outcome)
        update_progress_artifact(cast(UUID, self._progress), progress=100.0 * self._done / self._total)
        return kept[0]

    def gate_failed(self, findings: list[str]) -> None:
        lines = "\n".join(f"- {f}" for f in findings)
        create_markdown_artifact(markdown=f"# The catalog failed its gate\n\n{lines}", key="gate")
