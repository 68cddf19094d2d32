"""Real processes."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fixtures import mini, new_prefect  # noqa: F401
from slurm_stages import clients, slurm, stage  # noqa: F401

ROOT = Path(__file__).resolve().parents[2]


class Serving:
    """`stepvideo serve` in a process of its own; `url` is where it said that it is."""

    def __init__(self, model: Path, out: Path, *options: str, token: str = "") -> None:
        command = [sys.executable, "-m", "stepvideo.cli", "serve", "--model", str(model), "--out", str(out)]
        self.process = subprocess.Popen(
            [*command, "--port", "0", "--device", "cpu", *options],
            cwd=ROOT, env={**os.environ, "STEPVIDEO_TOKEN": token, "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        self.out, self.said = out, ""
        self._ready = threading.Event()
        threading.Thread(target=self._listen, daemon=True).start()
        assert self._ready.wait(120) and "try " in self.said, f"it did not start: {self.said}"
        found = re.search(r"serving (http://\S+)", self.said)
        assert found, self.said
        self.url = found[1]

    def _listen(self) -> None:
        assert self.process.stdout
        for line in self.process.stdout:
            self.said += line
            if line.startswith("try "):
                self._ready.set()
        self._ready.set()

    def open_files(self) -> int:
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))

    def threads(self) -> int:
        return len(os.listdir(f"/proc/{self.process.pid}/task"))


@pytest.fixture(scope="session")
def serve(tiny_models) -> Iterator[Callable[..., Serving]]:
    """Starts the service of the tiny model: (out, *options, token="") → Serving."""
    pytest.importorskip("fastapi", reason="needs the `serve` extra")
    started: list[Serving] = []

    def start(out: Path, *options: str, token: str = "") -> Serving:
        started.append(Serving(tiny_models, out, *options, token=token))
        return started[-1]

    yield start
    for serving in started:
        if serving.process.poll() is None:
            serving.process.kill()
        serving.process.wait()
