"""The cascade as a Prefect flow: one task a stage, cached ones shown as cached. The work is in tasks/.

Prefect's own cache and retries are off: the store knows what is there (flows/plan.py), the launcher what to try again.
"""

from __future__ import annotations

from contextvars import ContextVar
from typing import Any

from prefect import flow
from prefect.runtime import flow_run
from prefect.states import Cancelled as CancelledState
from prefect.states import State

from flows.board import Board
from flows.compose import chosen
from flows.prepared import Prepared, run_prepared, summary
from tasks.stages import Cancelled

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
    board = Board()
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
