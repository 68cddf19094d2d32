"""A Prefect server as a team has one, with all its services, a worker of ours, and a receiver of webhooks."""

from __future__ import annotations

import http.server
import json
import os
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).resolve().parents[2]
QUICK = {
    "PREFECT_SERVER_SERVICES_SCHEDULER_LOOP_SECONDS": "2",
    "PREFECT_SERVER_SERVICES_SCHEDULER_RECENT_DEPLOYMENTS_LOOP_SECONDS": "1",
    "PREFECT_SERVER_SERVICES_LATE_RUNS_LOOP_SECONDS": "2",
    "PREFECT_WORKER_QUERY_SECONDS": "2",
    "PREFECT_RUNNER_POLL_FREQUENCY": "2",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_CLI_PROMPT": "false",
    "PREFECT_CLI_COLORS": "false",
}


PATIENCE_S = 1200.0  # a machine with other work takes its time


def wait_for(what: Callable[[], Any]) -> Any:
    """What `what` returns once that is true; an error of the network is none yet."""
    end = time.monotonic() + PATIENCE_S
    while True:
        try:
            found = what()
        except OSError:
            found = None
        if found:
            return found
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.5)


class PrefectStack:
    """Use as a context manager; `start_server`, `stop_server` may be called in between, its database stays."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            self.port = s.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.home = folder / "prefect"
        self.environment = os.environ | QUICK | {"PREFECT_HOME": str(self.home), "PREFECT_API_URL": f"{self.url}/api"}
        self.environment["PREFECT_UI_URL"] = self.url
        self.server: subprocess.Popen[bytes] | None = None
        self.workers: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> PrefectStack:
        try:
            self.start_server()
        except BaseException:
            self.stop_server()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for each in list(self.workers):
            self.stop_worker(each)
        self.stop_server()

    def start_server(self) -> None:
        self.home.mkdir(parents=True, exist_ok=True)
        command = ["-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(self.port)]
        self.server = self._start("server", command)
        wait_for(lambda: urllib.request.urlopen(f"{self.url}/api/health", timeout=30).status == 200)

    def stop_server(self) -> None:
        if self.server:
            end(self.server)
            self.server = None

    def worker(self, *more: str) -> subprocess.Popen[bytes]:
        started = self._start("worker", ["-m", "stepvideo.cli", "worker", *more])
        self.workers.append(started)
        return started

    def stop_worker(self, which: subprocess.Popen[bytes]) -> None:
        end(which)
        self.workers.remove(which)

    def stepvideo(self, *args: str, **env: str) -> tuple[int, str, str]:
        """(exit code, stdout, stderr) of the command line with this server."""
        command = [sys.executable, "-m", "stepvideo.cli", *args]
        done = subprocess.run(
            command, cwd=ROOT, env=self.environment | env, capture_output=True, text=True, timeout=PATIENCE_S
        )
        return done.returncode, done.stdout, done.stderr

    def api(self, path: str, body: Any = None, method: str = "") -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"{self.url}/api/{path}", data, {"Content-Type": "application/json"})
        request.method = method or ("POST" if data else "GET")
        with urllib.request.urlopen(request, timeout=60) as answer:
            text = answer.read()
        return json.loads(text) if text else None

    def runs(self, **filters: Any) -> list[dict[str, Any]]:
        """Flow runs, in the order of their times."""
        return self.api("flow_runs/filter", {"sort": "EXPECTED_START_TIME_ASC", **filters})

    def artifacts(self, run: str) -> dict[str, dict[str, Any]]:
        found = self.api("artifacts/filter", {"artifacts": {"flow_run_id": {"any_": [run]}}})
        return {a["key"]: a for a in found}

    def _start(self, name: str, command: list[str]) -> subprocess.Popen[bytes]:
        with (self.folder / f"{name}.log").open("ab") as log:
            return subprocess.Popen([sys.executable, *command], env=self.environment, cwd=ROOT, stdout=log, stderr=log)


def end(process: subprocess.Popen[bytes]) -> None:
    """It and all that it started."""
    try:
        below = psutil.Process(process.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        below = []
    process.kill()
    for each in below:
        try:
            each.kill()
        except psutil.NoSuchProcess:
            continue
    process.wait()
    psutil.wait_procs(below, timeout=30)


class Receiver:
    """An HTTP server that keeps what is posted to it; use as a context manager."""

    def __init__(self) -> None:
        self.got: list[tuple[dict[str, str], dict[str, Any]]] = []
        receiver = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                receiver.got.append((dict(self.headers), json.loads(body)))
                self.send_response(204)
                self.end_headers()

            def log_message(self, *_: Any) -> None: ...

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/hook"

    def __enter__(self) -> Receiver:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def kinds(self) -> list[str]:
        return [body["kind"] for _, body in self.got]
