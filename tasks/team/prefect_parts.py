"""Prefect's server, its tables in PostgreSQL, behind an auth string; and a worker, which is `stepvideo worker`."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Mapping
from datetime import datetime

from tasks.team.answers import ask, basic, status
from tasks.team.layout import HOST, POOL, ROOT, USER, Stack, service_environment
from tasks.team.processes import Part, since


def parts(stack: Stack, store: str | None = None) -> list[Part]:
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", HOST, "--port", str(stack.port("prefect"))]
    worker = [sys.executable, "-m", "stepvideo.cli", "worker", "--pool", POOL]
    worker += ["--store", store or str(ROOT / "runs" / "store")]  # named, it need not be there yet
    return [
        Part(
            name="prefect",
            command=command,
            answers=lambda: status(f"{stack.url('prefect')}/api/admin/version", _login(stack)) == 200,
            environment=lambda: _server_environment(stack),
            prepare=lambda: (stack.folder / "prefect").mkdir(mode=0o700, exist_ok=True),
            about=f"auth string of user {USER}",
            place=stack.url("prefect"),
        ),
        Part(
            name="worker",
            command=worker,
            answers=lambda: _heard_of(stack),
            environment=lambda: _worker_environment(stack),
            # as a machine that goes down: a driver that is asked to end cancels its jobs, one that is killed leaves
            # them, and the next worker takes its run up again
            stop_with=signal.SIGKILL,
            about="takes runs from the UI and from schedules",
            place=f"pool {POOL}",
        ),
    ]


def _login(stack: Stack) -> dict[str, str]:
    return basic(f"{USER}:{stack.secrets['prefect']}")


def _server_environment(stack: Stack) -> Mapping[str, str]:
    return service_environment(
        **stack.passwords,
        PREFECT_HOME=str(stack.folder / "prefect"),
        PREFECT_SERVER_DATABASE_CONNECTION_URL=stack.database("prefect", "asyncpg"),
        PREFECT_SERVER_API_AUTH_STRING=f"{USER}:{stack.secrets['prefect']}",
        PREFECT_UI_API_URL=f"{stack.url('prefect')}/api",
        PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT="false",
        # in seconds: the defaults of 5 and 10 end its own services' queries while the machine is busy
        PREFECT_SERVER_DATABASE_CONNECTION_TIMEOUT="60",
        PREFECT_SERVER_DATABASE_TIMEOUT="60",
    )


def _worker_environment(stack: Stack) -> Mapping[str, str]:
    """The caller's, as jobs inherit it (SLURM_CONF, paths, …), and what team.env has."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
    home = {"PREFECT_HOME": str(stack.folder / "prefect"), "PYTHONPATH": path}
    quiet = service_environment()
    return {**os.environ, **quiet, **stack.clients(), **home}


def _heard_of(stack: Stack) -> bool:
    """Whether a worker of the pool has reported since ours was started."""
    url = f"{stack.url('prefect')}/api/work_pools/{POOL}/workers/filter"
    code, text = ask(url, _login(stack), {})
    if code != 200:
        return False
    began = since(stack, "worker")
    beats = [datetime.fromisoformat(w["last_heartbeat_time"]).timestamp() for w in json.loads(text)]
    return bool(beats) and max(beats) >= began - 1 and time.time() >= began
