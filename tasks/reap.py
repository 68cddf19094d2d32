"""Close what dead drivers and dead jobs left open: their records, MLflow runs and Prefect runs."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

from stepvideo.artifact import Store, is_running
from stepvideo.sink import read_events
from tasks import tracking
from tasks.ledger import Ledger
from tasks.record import KILLED, RUNNING, RunRecord, records
from tasks.tracking import Server, finish_child


def reap_records(store: Store) -> list[RunRecord]:
    """Mark the records of dead drivers as killed; returns those that were."""
    dead = [r for r in records(store) if r.data["state"] == RUNNING and not r.is_live]
    for record in dead:
        record.update(state=KILLED)
    return dead


def reap_mlflow(store: Store, server: Server) -> list[str]:
    """End MLflow runs of this store that are left in RUNNING with nobody behind them; returns what was done, in words.

    A stage whose job is alive, or whose driver is, stays as it is.
    """
    live = [r for r in records(store) if r.is_live]
    held = {(name, s.get("key")) for r in live for name, s in r.data["stages"].items() if s.get("state") == "running"}
    live_ids = {r.data["id"] for r in live}
    done = []
    client = server.client
    query = f"attributes.status = 'RUNNING' and tags.store = '{store.root}'"
    for run in client.search_runs([server.experiment_id], filter_string=query, max_results=1000):
        tags, run_id = run.data.tags, run.info.run_id
        if "stage_key" not in tags:
            if tags.get("run") not in live_ids and tags.get("host") == socket.gethostname():
                client.set_terminated(run_id, tracking.KILLED)
                done.append(f"MLflow: cascade {tags.get('run')} → {tracking.KILLED}")
            continue
        stage, key = tags.get("stage", ""), tags.get("stage_key", "")
        directory = store.dir(stage, key)
        if (stage, key) in held or is_running(directory):
            continue
        done.append(f"MLflow: {stage}/{key} → {_close_child(store, server, directory, stage, key, run_id)}")
    return done


def _close_child(store: Store, server: Server, directory: Path, stage: str, key: str, run_id: str) -> str:
    artifact = store.find(stage, key, verify=False)
    if artifact and finish_child(server, Ledger(directory), artifact) == run_id:
        return tracking.FINISHED
    events = [e for e in read_events(directory / "events.jsonl")[0] if e.get("type") == "event"]
    status = tracking.FAILED if events and events[-1]["name"] == "failed" else tracking.KILLED
    server.client.set_terminated(run_id, status)
    return status


def reap_prefect(store: Store, again: bool = False) -> list[str]:
    """Move flow runs of dead drivers, and their task runs, from RUNNING to CRASHED. Needs Prefect's environment set.

    Args:
        again: those that a worker ran are scheduled again instead.
    """
    todo = [
        r for r in records(store) if r.data["tracking"].get("flow_run") and not r.data["tracking"].get("flow_closed")
    ]
    todo = [r for r in todo if not r.is_live]
    if not todo:
        return []
    from prefect import get_client
    from prefect.exceptions import ObjectNotFound
    from prefect.states import AwaitingRetry, Crashed

    done = []
    with get_client(sync_client=True) as client:
        for record in todo:
            flow_run = record.data["tracking"]["flow_run"]
            try:
                run = client.read_flow_run(flow_run)
            except ObjectNotFound:
                record.update_tracking(flow_closed=True)
                continue
            state = Crashed(message="its driver was killed")
            for task_run in _task_runs(client, flow_run):
                if task_run.state and not task_run.state.is_final():
                    client.set_task_run_state(task_run.id, state, force=True)
            if run.state and not run.state.is_final():
                if again and run.deployment_id:
                    state = AwaitingRetry(message="its worker was killed; the jobs go on")
                client.set_flow_run_state(run.id, state, force=True)
                done.append(f"Prefect: {run.name} → {(state.name or '').upper()}")
            record.update_tracking(flow_closed=True)
    return done


def _task_runs(client: Any, flow_run: str) -> list[Any]:
    from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId

    return client.read_task_runs(flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=[flow_run])))


def flow_closed(store: Store, record_id: str) -> None:
    """Note that Prefect itself has ended the flow run of a record."""
    for record in records(store):
        if record.data["id"] == record_id:
            record.update_tracking(flow_closed=True)
