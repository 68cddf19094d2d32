"""Limits of Slurm partitions across runs: a stage that is to be submitted waits for a slot of its partition.

The limits are Prefect's global concurrency limits `partition-NAME` (prefect.yaml, `partitions`). Slots are leases: what
a killed driver held is free again after five minutes. A partition without a limit has none.
"""

from __future__ import annotations

import contextlib
import threading
from typing import Any

from prefect.concurrency._asyncio import ConcurrencySlotAcquisitionError
from prefect.concurrency.sync import concurrency

from stepvideo.config import load
from stepvideo.stage import StageSpec
from tasks.ledger import Ledger
from tasks.slurm_config import SlurmConfig
from tasks.stages import Cancelled, Outcome

PATIENCE_S = 5.0  # between two looks at whether the run was cancelled


def limit_of(partition: str) -> str:
    """The name of a partition's limit."""
    return f"partition-{partition}"


class Slots:
    """A listener of stages: `started` returns when there is a slot. A job that runs already does not wait for one."""

    def __init__(self, slurm: dict[str, Any], cancel: threading.Event) -> None:
        self._slurm, self._cancel = load(SlurmConfig, slurm, "cluster.slurm"), cancel
        self._held: dict[str, contextlib.ExitStack] = {}

    def started(self, spec: StageSpec, ledger: Ledger, attached: bool) -> None:
        partition = self._slurm.resources(spec.stage, spec.config["runtime"].get("slurm")).partition
        if not partition:
            return
        stack = contextlib.ExitStack()
        while not self._cancel.is_set():
            slot = concurrency(limit_of(partition), timeout_seconds=0.1 if attached else PATIENCE_S)
            try:
                stack.enter_context(slot)
            except TimeoutError:
                if attached:
                    return
                continue
            except ConcurrencySlotAcquisitionError:  # the server is away: its limits are nobody's
                return
            self._held[spec.stage] = stack
            return
        raise Cancelled(f"stage {spec.stage} was cancelled while it waited for a slot of partition {partition}")

    def events(self, spec: StageSpec, records: list[dict[str, Any]], offset: int) -> None: ...

    def ended(self, spec: StageSpec, outcome: Outcome | None, error: BaseException | None) -> None:
        if stack := self._held.pop(spec.stage, None):
            with contextlib.suppress(Exception):  # a server that is away frees the lease by itself
                stack.close()
