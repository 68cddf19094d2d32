"""A team stack of the tests' own: real servers in a folder of their own, and what they know of a run."""

from __future__ import annotations

import os
import random
import shutil
import signal
import socket
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tasks.team import layout, parts, processes
from tasks.team.answers import ask, basic
from tasks.team.layout import Stack
from tasks.team.s3 import s3_client

SPAN = 40  # ports from the first on
PATIENCE_S = 300.0  # for an answer of a server that is up


@contextmanager
def folder() -> Iterator[Path]:
    """One that PostgreSQL's user can reach, as pytest's own are closed to all but root."""
    made = Path(tempfile.mkdtemp(prefix="team-"))
    made.chmod(0o711)
    try:
        yield made / "stack"
    finally:
        shutil.rmtree(made)


def free_port() -> int:
    """The first of a row of ports that nobody listens at."""
    draw = random.Random()
    while True:
        first = draw.randrange(20_000, 30_000)
        with socket.socket() as s:
            if all(s.connect_ex(("127.0.0.1", p)) for p in range(first, first + SPAN)):
                return first


@contextmanager
def running(only: tuple[str, ...] = ()) -> Iterator[Stack]:
    """A stack whose services, or those of `only`, run; skips where packages are missing."""
    from flows.team import start_command, stop_command

    if lacking := parts.missing(only or parts.NAMES):
        pytest.skip("; ".join(lacking))
    with folder() as where:
        try:
            assert start_command(str(where), free_port(), str(where.parent / "no-store"), only) == 0
            found = layout.find_stack(where)
            assert found
            yield found
        finally:
            stop_command(str(where), ())


@contextmanager
def shared() -> Iterator[Stack]:
    """A whole stack; STEPVIDEO_SOAK_TEAM names one that is there, as a first start takes minutes on a busy machine."""
    from flows.team import start_command

    used = os.environ.get("STEPVIDEO_SOAK_TEAM")
    if not used:
        with running() as made:
            yield made
        return
    assert start_command(used, None, None) == 0
    found = layout.find_stack(used)
    assert found
    yield found


def kill(stack: Stack, name: str) -> None:
    """All of a service, as a machine that goes down; PostgreSQL's other processes end by themselves."""
    pid = processes.pid_of(stack, name)
    assert pid
    os.killpg(pid, signal.SIGKILL)


class Known:
    """What the servers of a stack know."""

    def __init__(self, stack: Stack) -> None:
        self._stack = stack

    def mlflow(self, path: str, **body: Any) -> dict[str, Any]:
        url = f"{self._stack.url('mlflow')}/api/2.0/mlflow/{path}"
        return self._ask(url, f"{layout.USER}:{self._stack.secrets['mlflow']}", body)

    def prefect(self, path: str, **body: Any) -> Any:
        url = f"{self._stack.url('prefect')}/api/{path}"
        return self._ask(url, f"{layout.USER}:{self._stack.secrets['prefect']}", body)

    def runs(self, store: Path) -> list[dict[str, Any]]:
        """MLflow's runs of one store: {id, experiment, status, tags}."""
        experiments = self.mlflow("experiments/search", max_results=100)["experiments"]
        asked = {"experiment_ids": [e["experiment_id"] for e in experiments], "max_results": 1000}
        found = self.mlflow("runs/search", **asked, filter=f"tags.store = '{store}'").get("runs", [])
        return [
            {
                "id": r["info"]["run_id"],
                "experiment": r["info"]["experiment_id"],
                "status": r["info"]["status"],
                "tags": {t["key"]: t["value"] for t in r["data"].get("tags", [])},
            }
            for r in found
        ]

    def history(self, run: str, metric: str) -> list[tuple[int, float]]:
        """(step, value) of every row of a metric."""
        url = f"{self._stack.url('mlflow')}/api/2.0/mlflow/metrics/get-history?run_id={run}&metric_key={metric}"
        found = self._ask(url, f"{layout.USER}:{self._stack.secrets['mlflow']}")["metrics"]
        return sorted((int(m["step"]), m["value"]) for m in found)

    def artifacts(self, run: str, folder: str) -> list[str]:
        """Paths of the files in a folder of a run's artifacts."""
        url = f"{self._stack.url('mlflow')}/api/2.0/mlflow/artifacts/list?run_id={run}&path={folder}"
        found = self._ask(url, f"{layout.USER}:{self._stack.secrets['mlflow']}")
        return [f["path"] for f in found.get("files", [])]

    def objects(self, prefix: str) -> set[str]:
        pages = s3_client(self._stack.s3()).get_paginator("list_objects_v2")
        found = [
            o["Key"] for page in pages.paginate(Bucket=layout.BUCKET, Prefix=prefix) for o in page.get("Contents", [])
        ]
        return {key.removeprefix(prefix) for key in found}

    def _ask(self, url: str, login: str, body: Any = None) -> Any:
        import json

        deadline = time.monotonic() + PATIENCE_S
        while (code := (said := ask(url, basic(login), body))[0]) == 0 and time.monotonic() < deadline:
            time.sleep(1.0)  # no answer in time, from a busy machine
        text = said[1]
        assert code == 200, (url, code, text[:500])
        return json.loads(text)


def wait_until(true: Callable[[], bool], timeout: float = 60) -> None:
    deadline = time.monotonic() + timeout
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.05)
