"""An MLflow server on SQLite that keeps artifacts itself; with users and passwords where one is wanted."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

from tasks.team import python_packages

AUTH = """\
[mlflow]
default_permission = READ
database_uri = sqlite:///{folder}/users.db
authorization_function = mlflow.server.auth:authenticate_request_basic_auth
"""
ADMIN, PASSWORD = "keeper", "a-password-of-the-tests"


class MLflow:
    """Use as a context manager; `start` and `kill` may be called in between, what it keeps stays.

    Args:
        users: it asks for `ADMIN` and `PASSWORD`, and others may only read.
    """

    def __init__(self, folder: Path, users: bool = False) -> None:
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            self.port = s.getsockname()[1]
        self.folder, self.users = folder, users
        self.url = f"http://127.0.0.1:{self.port}"
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> MLflow:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill(signal.SIGTERM)

    def start(self) -> None:
        """Returns when it answers."""
        self.folder.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "mlflow", "server", "--port", str(self.port), "--workers", "1"]
        command += ["--backend-store-uri", f"sqlite:///{self.folder}/mlflow.db"]
        command += ["--artifacts-destination", str(self.folder / "kept")]
        environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        if self.users:
            command += ["--app-name", "basic-auth"]
            (self.folder / "auth.ini").write_text(AUTH.format(folder=self.folder))
            environment |= {"MLFLOW_AUTH_CONFIG_PATH": str(self.folder / "auth.ini")}
            environment |= {"MLFLOW_AUTH_ADMIN_USERNAME": ADMIN, "MLFLOW_AUTH_ADMIN_PASSWORD": PASSWORD}
            environment |= {"MLFLOW_FLASK_SERVER_SECRET_KEY": "of the tests"}
            environment |= {"PYTHONPATH": str(python_packages.linked(self.folder / "python"))}
        log = self.folder / "server.log"
        with log.open("ab") as out:
            self._process = subprocess.Popen(
                command, env=environment, cwd=self.folder, stdout=out, stderr=out, start_new_session=True
            )
        deadline = time.monotonic() + 600
        while not self._answers():
            assert self._process.poll() is None and time.monotonic() < deadline, log.read_text()
            time.sleep(0.2)

    def kill(self, how: int = signal.SIGKILL) -> None:
        """It and its workers."""
        if self._process:
            os.killpg(self._process.pid, how)
            self._process.wait(60)
            self._process = None

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/health") as answer:
                return answer.status == 200
        except OSError:
            return False
