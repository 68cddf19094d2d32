"""The cascade, and the curation by itself, as Prefect flows: one task a stage, cached ones shown as cached.

Prefect's own cache and retries are off: the store knows what is there (flows/plan.py), the launcher what to try again:
what the machine did (a kill, a preemption, a lost node), and not what a person did (tasks/stages.py).
"""

from __future__ import annotations

from contextvars import ContextVar
from typing import Annotated, Any

from prefect import flow
from prefect.runtime import flow_run
from prefect.states import Cancelled as CancelledState
from prefect.states import State
from pydantic import Field

from flows import parameters as p
from flows.board import Board
from flows.missed import drop_missed
from flows.prepared import Prepared, run_prepared, summary
from tasks.stages import Cancelled

PREPARED: ContextVar[Prepared | None] = ContextVar("prepared", default=None)
Rows = list[dict[str, Any]]  # one a stage: stage, key, digest, cached, seconds, metrics, path


def _cascade_name() -> str:
    given = flow_run.parameters
    return p.in_words(given["overrides"], given["until"], **{g: given[g] for g in p.GROUPS})


def _curate_name() -> str:
    given = flow_run.parameters
    said = p.in_words(given["overrides"], profile="curate", cluster=given["cluster"])
    return said.replace("curate", f"curate {given['folder']}", 1)[: p.NAME_LENGTH]


@flow(name="cascade", flow_run_name=_cascade_name, retries=0, on_running=[drop_missed])
def cascade(
    overrides: p.Overrides = None,
    until: p.Until = None,
    profile: p.Profile = "micro",
    cluster: p.Cluster = "local",
    tracking: p.Tracking = "local",
) -> Rows | State[Any]:
    """Raw clips to an evaluated, distilled model. The same again goes on, or takes everything from the store.

    Args:
        overrides: Further settings, key=value, such as stages.sft.steps=50; they win over the fields below.
        until: The last stage that is wanted, such as sft or average; empty: all of them.
        profile: The scale. smoke shows that everything runs; micro learns the small world on two cores.
        cluster: Where stages run. local: processes beside the worker; slurm and h800: jobs.
        tracking: Which servers are told. team: those that the worker's environment names.
    """
    return _carry_out(p.settings(overrides, profile=profile, cluster=cluster, tracking=tracking), until)


@flow(name="curate", flow_run_name=_curate_name, retries=0, on_running=[drop_missed])
def curate(
    folder: Annotated[
        str, Field(min_length=1, description="Videos and images, with subfolders, or s3://BUCKET/FOLDER")
    ],
    out: Annotated[str, Field(description="Where artifacts are kept; empty: runs/store")] = "",
    overrides: p.Overrides = None,
    cluster: p.Cluster = "local",
    tracking: p.Tracking = "local",
) -> Rows | State[Any]:
    """A folder of videos and images to clips, tags, subsets and a page to look at them.

    Args:
        folder: Videos and images, searched with its subfolders, or s3://BUCKET/FOLDER.
        out: Where artifacts are kept; empty: runs/store of the checkout.
        overrides: Further settings, key=value, such as stages.curate.segment.trim=0.
        cluster: Where stages run. local: processes beside the worker; slurm and h800: jobs.
        tracking: Which servers are told. team: those that the worker's environment names.
    """
    from flows.align import quoted

    given = ["graph=flows.curate", "profile=curate", f"raw={quoted(folder)}"]
    given += [f"store={quoted(out)}"] if out else []
    return _carry_out(given + p.settings(overrides, cluster=cluster, tracking=tracking), None)


def _carry_out(overrides: list[str], until: str | None) -> Rows | State[Any]:
    prepared = PREPARED.get() or Prepared.make(overrides, until)
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
