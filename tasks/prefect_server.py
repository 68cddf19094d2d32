"""A Prefect server for as long as one driver lives, in a process of its own that starts while the driver imports.

Prefect's own temporary server is imported by the client too, starts late, and stays behind when the driver is killed.
Run as a module this is that process: `python -m tasks.prefect_server FD DRIVER`.
"""

from __future__ import annotations

import base64
import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

from stepvideo.errors import StepVideoError

URL = "PREFECT_API_URL"
AUTH = "PREFECT_API_AUTH_STRING"
START_TIMEOUT_S = 120.0  # of a server that the user named
OWN_TIMEOUT_S = 600.0  # of our own, which lives: beside other work its imports alone may take minutes
TRY_S = 10.0  # of one question; after the first without an answer people are told what is waited for
STOP_TIMEOUT_S = 5.0


@contextlib.contextmanager
def temporary_server(log: Path) -> Iterator[Callable[[], None]]:
    """Set PREFECT_API_URL to a new server for the body, unless the user set it. Nothing of Prefect is imported here.

    Yields what waits until the server answers, to be called before the first use; of a long wait it tells on stderr.

    Raises:
        StepVideoError: the log or Prefect's home cannot be written; from the waiting: the server did not start.
    """
    if os.environ.get(URL):
        yield lambda: _wait(None, log)
        return
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(128)
        fd = listening.fileno()
        url = f"http://127.0.0.1:{listening.getsockname()[1]}/api"
        env = os.environ | {"PREFECT_UI_ENABLED": "0", "PREFECT__SERVER_EPHEMERAL": "1", "PREFECT__SERVER_FINAL": "1"}
        try:
            log.parent.mkdir(parents=True, exist_ok=True)
            if home := os.environ.get("PREFECT_HOME"):
                Path(home).mkdir(parents=True, exist_ok=True)
            with log.open("wb") as out:
                command = [sys.executable, "-m", "tasks.prefect_server", str(fd), str(os.getpid())]
                root = str(Path(__file__).resolve().parent.parent)
                process = subprocess.Popen(command, env=env, cwd=root, pass_fds=[fd], stdout=out, stderr=out)
        except OSError as e:
            raise StepVideoError(f"cannot start a Prefect server (log {log}): {e.strerror or e}") from e
    os.environ[URL] = url
    try:
        yield lambda: _wait(process, log)
    finally:
        del os.environ[URL]
        process.terminate()
        try:
            process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait(process: subprocess.Popen[bytes] | None, log: Path) -> None:
    url, began, told = os.environ[URL], time.monotonic(), False
    patience = OWN_TIMEOUT_S if process else START_TIMEOUT_S
    what = "the Prefect server of this run" if process else f"the Prefect server at {url} ({URL})"
    while time.monotonic() < began + patience:
        if process and process.poll() is not None:
            last = (log.read_text(errors="replace").strip().splitlines() or ["no message"])[-1]
            raise StepVideoError(f"the Prefect server did not start: {last}; see {log}, or tracking.prefect=false")
        with contextlib.suppress(urllib.error.URLError, OSError):
            with urllib.request.urlopen(f"{url}/health", timeout=TRY_S) as answer:
                if answer.status == 200:
                    break
        if not told and time.monotonic() - began > TRY_S:
            told = True
            print(f"waiting for {what}; without it: tracking.prefect=false", file=sys.stderr, flush=True)
        time.sleep(0.1)
    else:
        more = f"the machine may be too busy: see {log}, and try again" if process else f"start it, or unset {URL}"
        raise StepVideoError(f"{what} has not answered within {patience:.0f} s; {more}, or tracking.prefect=false")
    if process is None:
        _check_login(url)


def _check_login(url: str) -> None:
    """A server that says it is well says so to everybody."""
    token = os.environ.get(AUTH, "")
    header = {"Authorization": f"Basic {base64.b64encode(token.encode()).decode()}"} if token else {}
    try:
        urllib.request.urlopen(urllib.request.Request(f"{url}/admin/version", headers=header), timeout=20).close()
    except urllib.error.HTTPError as e:
        if e.code == 401:
            wrong = "is wrong" if token else "is not set"
            raise StepVideoError(f"the Prefect server at {url} asks for a password: {AUTH} {wrong}") from None
    except (urllib.error.URLError, OSError):  # it went away again: the flow tells
        return


def _serve(fd: int, driver: int) -> None:
    """Serve on an inherited socket until the parent, which is the driver, is gone."""
    import ctypes

    pr_set_pdeathsig = 1
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGTERM)
    if os.getppid() != driver:  # it was killed before this process had asked to be told
        return
    import uvicorn

    uvicorn.run("prefect.server.api.server:create_app", factory=True, fd=fd, log_level="error", lifespan="on")


if __name__ == "__main__":
    _serve(int(sys.argv[1]), int(sys.argv[2]))
