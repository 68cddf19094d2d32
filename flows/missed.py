"""After an outage a schedule is caught up once: the first run that starts drops the other ones that were missed.

Prefect's server writes runs of a schedule down ahead of time, and a worker that comes back starts every one that is
due. A deployment's limit of one with CANCEL_NEW drops those that meet a running one, but not those that a worker
starts later, one after the other; this does.
"""

from __future__ import annotations

import contextlib
from datetime import UTC, datetime
from typing import Any

import httpx
from prefect import get_client
from prefect.client.schemas.filters import (
    DeploymentFilter,
    DeploymentFilterId,
    FlowRunFilter,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import StateType
from prefect.client.schemas.sorting import FlowRunSort
from prefect.states import Cancelled

_WAITING = FlowRunFilter(state=FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.SCHEDULED])))


def drop_missed(flow: Any, flow_run: Any, state: Any) -> None:
    """A hook of flows: a scheduled run cancels the other scheduled runs of its deployment that are due, too.

    They must have been scheduled with the same parameters: two schedules of a deployment do not drop each other's.
    """
    if not (flow_run.deployment_id and flow_run.auto_scheduled):
        return
    mine = DeploymentFilter(id=DeploymentFilterId(any_=[flow_run.deployment_id]))
    with contextlib.suppress(httpx.HTTPError), get_client(sync_client=True) as client:
        order = FlowRunSort.EXPECTED_START_TIME_ASC
        for other in client.read_flow_runs(deployment_filter=mine, flow_run_filter=_WAITING, sort=order):
            due = other.expected_start_time is not None and other.expected_start_time <= datetime.now(UTC)
            if due and other.auto_scheduled and other.parameters == flow_run.parameters and other.id != flow_run.id:
                said = f"missed, and caught up by {flow_run.name} ({flow_run.id})"
                client.set_flow_run_state(other.id, Cancelled(message=said), force=True)
