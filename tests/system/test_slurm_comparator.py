"""Whole flows on a real Slurm with a real Prefect server, in the cases that prefect-submitit 0.1.8 fails
(docs/slurm.md): a node dies, the driver is killed and run again, the flow is cancelled; and an administrator's scancel.
"""

from __future__ import annotations

import contextvars
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from mini import Mini
from own_prefect import own_prefect
from slurm_cluster import missing
from slurm_stages import wait_for

from stepvideo.artifact import is_running
from stepvideo.storage import read_json
from tasks.slurm_queue import RECORD

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(missing()), reason=missing()),
    pytest.mark.usefixtures("clients"),
]
ON = ["tracking=local", "tracking.mlflow=false", "cluster=slurm", "cluster.snapshot=false", "cluster.slurm.poll_s=1"]
ON += ["cluster.slurm.warn_s=50", "cluster.grace_s=5", "stages.fit.step_s=0.2", "stages.fit.steps=40"]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, new_prefect: Path) -> Iterator[None]:
    """For flows in processes and in threads of this one."""
    with own_prefect(tmp_path_factory.mktemp("prefect") / ".prefect", new_prefect):
        yield


class Flow(threading.Thread):
    """`stepvideo run` in a thread."""

    def __init__(self, mini: Mini, *settings: str) -> None:
        super().__init__(daemon=True)
        from flows.prepared import Prepared

        self.store = mini.store
        self.prepared = Prepared.make(mini.args(*ON, *settings), None)
        self.error: BaseException | None = None
        self._context = contextvars.copy_context()
        self.start()

    def run(self) -> None:
        from flows.run import _in_prefect

        try:
            self._context.run(_in_prefect, self.prepared)
        except BaseException as e:
            self.error = e

    def until(self, stage: str, step: int) -> Any:
        """Its directory once the stage has logged that step."""
        wait_for(lambda: self._logged(stage, step), self.is_alive, timeout=300)
        return self.directory(stage)

    def _logged(self, stage: str, step: int) -> bool:
        logs = list(self.store.root.glob(f"{stage}/*/events.jsonl"))
        return bool(logs) and f'"type": "metrics", "step": {step},' in logs[0].read_text()

    def directory(self, stage: str) -> Any:
        return next(self.store.root.glob(f"{stage}/*/spec.json")).parent

    def digests(self) -> dict[str, str]:
        self.join(300)
        if self.error:
            raise self.error
        return {name: outcome.artifact.digest for name, outcome in self.prepared.results.items()}

    def flow_run(self) -> Any:
        from prefect import get_client

        record = next(r for r in self.store.root.glob("_runs/*/run.json") if r.parent.name == self.prepared.record_id)
        with get_client(sync_client=True) as client:
            return client.read_flow_run(read_json(record)["tracking"]["flow_run"])

    def cancel(self) -> None:
        """As the button in the UI does."""
        from prefect import get_client
        from prefect.states import Cancelling

        run = self.flow_run().id
        with get_client(sync_client=True) as client:
            client.set_flow_run_state(run, Cancelling())

    def log(self) -> list[tuple[int, str]]:
        """(level, line) that Prefect has of its task runs."""
        from prefect import get_client
        from prefect.client.schemas.filters import LogFilter, LogFilterFlowRunId
        from prefect.logging.handlers import APILogHandler

        APILogHandler().flush()
        own = LogFilter(flow_run_id=LogFilterFlowRunId(any_=[self.flow_run().id]))
        with get_client(sync_client=True) as client:
            return [(entry.level, entry.message) for entry in client.read_logs(own) if entry.task_run_id]


@pytest.fixture
def expected(mini: Mini) -> dict[str, str]:
    rows = mini.run(f"store={mini.folder / 'here'}", "stages.fit.steps=40")
    return {name: row["digest"] for name, row in rows.items()}


def jobs_of(slurm: Any, stage: str) -> list[str]:
    return [name for name in slurm.queue() if name.startswith(f"{stage}-")]


def test_a_dead_node_and_a_killed_driver_end_in_completed_flows(slurm, server, mini, tmp_path, expected) -> None:
    """prefect-submitit: the flow fails after 15 s, while Slurm completes the job elsewhere; two jobs run side by side.

    Of two flows, one loses the node of its job, and one its driver, which is run again.
    """
    from prefect import get_client

    before = set(slurm.queue())
    elsewhere = "cluster.slurm.partition=inference"
    driven = Mini(tmp_path / "driven")
    place = "cluster.slurm.stages={fit: {extra: {nodelist: training1}}}"
    orphaned = Flow(mini, place, "cluster.slurm.setup=[echo the site has set this up]")
    orphaned.until("fit", 4)
    first = driven.process(*ON, elsewhere)  # now, as its job must not end before its driver is killed
    slurm.kill("training1")
    directory = driven.wait_for_step("fit", 2, timeout=300)
    first.kill()
    first.wait()
    assert is_running(directory)
    again = Flow(driven, elsewhere)
    wait_for(lambda: "down" in slurm.state("training1"))
    slurm.revive("training1")
    for flow in (again, orphaned):
        assert flow.digests() == expected and flow.flow_run().state.name == "Completed"
    assert len(set(slurm.queue()) - before) == 6  # a submission for each of three stages, twice
    said = [line for _, line in orphaned.log()]
    assert said.count("the site has set this up") >= 3 and "job on training1" in said
    assert any(line.startswith("job waits since") for line in said)
    with get_client(sync_client=True) as client:
        states = [run.state.name for run in client.read_flow_runs() if run.start_time and run.state]
    assert states.count("Crashed") == 1 and "Running" not in states


def test_cancelling_a_flow_cancels_its_jobs_within_seconds(slurm, server, mini, tmp_path) -> None:
    """prefect-submitit: the job stays. Here one runs and one, of another flow, waits."""
    running = Flow(mini)
    held = Mini(tmp_path / "held")
    waiting = Flow(held, "cluster.slurm.extra={begin: now+1hour}")
    directory = running.until("fit", 4)
    wait_for(lambda: list(held.store.root.glob(f"noise/*/{RECORD}")) and jobs_of(slurm, "noise"))
    wait_for(lambda: "BeginTime" in _status(held))
    assert "pending waits since" in _status(held) and "on training" in _status(mini)
    named = [read_json(d / RECORD)["name"] for d in (directory, waiting.directory("noise"))]
    began = time.monotonic()
    for flow in (running, waiting):
        flow.cancel()
    gone = ("PENDING", "RUNNING", "COMPLETING")
    wait_for(lambda: not {s for n, s in _states(slurm) if n in named} & set(gone), timeout=5)
    for flow in (running, waiting):
        flow.join(max(0.1, began + 5 - time.monotonic()))
        assert not flow.is_alive() and flow.flow_run().state.name == "Cancelled"
    assert not is_running(directory)


def _states(slurm: Any) -> list[tuple[str, ...]]:
    return [tuple(row.split("|")) for row in slurm.queue("%j|%T")]


def _status(mini: Mini) -> str:
    from flows.status import stage_rows
    from tasks.record import records

    return "; ".join(f"{r['state']} {r['detail']}" for r in stage_rows(mini.store, records(mini.store)[-1]))


def test_an_admins_scancel_ends_the_flow_and_is_not_fought(slurm, server, mini, expected) -> None:
    flow = Flow(mini, "cluster.slurm.poll_s=4")  # the default: that the job's lock is free makes it look at once
    directory = flow.until("fit", 4)
    name = read_json(directory / RECORD)["name"]
    jobs, began = len(slurm.queue()), time.monotonic()
    slurm.ask("scancel", f"--name={name}")
    flow.join(5)
    assert not flow.is_alive() and "was cancelled in Slurm, not by its driver" in str(flow.error)
    assert time.monotonic() - began < 5 and len(slurm.queue()) == jobs and not (directory / RECORD).exists()
    state = flow.flow_run().state
    assert state.name == "Failed" and "the same command submits it again" in state.message
    assert any(level == 40 and "was cancelled in Slurm" in line for level, line in flow.log())
    assert Flow(mini).digests() == expected
