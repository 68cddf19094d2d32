"""The `smoke` cascade through the command line, in processes of their own as a user's would be, or in this one."""

from __future__ import annotations

import contextlib
import fcntl
import io
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stepvideo import storage
from stepvideo.artifact import Store
from stepvideo.cli import main
from stepvideo.data.draw import rng
from stepvideo.data.video_io import write_video

ROOT = Path(__file__).resolve().parents[2]


class Smoke:
    """One folder with a store and tracking databases."""

    first: dict[str, dict[str, Any]]  # the rows of a run that was made before

    def __init__(self, folder: Path, *settings: str) -> None:
        self.folder, self.settings, self.store = folder, settings, Store(folder / "store")

    def overrides(self, *more: str) -> list[str]:
        base = ["profile=smoke", "cluster=debug", "runtime.threads=1", *self.settings]
        base += [f"store={self.store.root}", f"work={self.folder / 'work'}"]
        given = {o.partition("=")[0] for o in more}
        return [b for b in base if b.partition("=")[0] not in given] + list(more)

    def start(self, *args: str) -> subprocess.Popen[str]:
        pipe = subprocess.PIPE
        argv = [sys.executable, "-m", "stepvideo.cli", *args]
        return subprocess.Popen(argv, cwd=ROOT, env=os.environ, text=True, stdout=pipe, stderr=pipe)

    def cli(self, *args: str, timeout: float = 600) -> str:
        process = self.start(*args)
        out, err = process.communicate(timeout=timeout)
        assert process.returncode == 0, f"{args}: exit {process.returncode}\n{out[-2000:]}\n{err[-4000:]}"
        return out

    def run(self, *more: str, until: str = "", timeout: float = 600) -> dict[str, dict[str, Any]]:
        """Stage name: row, as `stepvideo run --json` gives them."""
        limit = ["--until", until] if until else []
        said = self.cli("run", "--json", *limit, *self.overrides(*more), timeout=timeout)
        return {row["stage"]: row for row in json.loads(said)}

    def here(self, *args: str) -> str:
        """What a command prints in this process, which has imported most of what it needs."""
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = main(args)
        assert code == 0, f"{args}: exit {code}\n{out.getvalue()[-2000:]}\n{err.getvalue()[-4000:]}"
        return out.getvalue()

    def untracked(self, *more: str, until: str = "") -> dict[str, dict[str, Any]]:
        """`run` in this process; not with Prefect, which reads its settings when it is imported."""
        args = ["run", "--json", *(["--until", until] if until else []), *self.overrides(*more, "tracking=none")]
        return {row["stage"]: row for row in json.loads(self.here(*args))}

    def wait_for_step(self, stage: str, step: int, timeout: float = 300) -> Path:
        """The directory of a stage once its events show that step."""
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            for events in self.store.root.glob(f"{stage}/*/events.jsonl"):
                if f'"type": "metrics", "step": {step},' in events.read_text():
                    return events.parent
            time.sleep(0.02)
        raise TimeoutError(f"{stage} did not reach step {step}")


def ran(rows: dict[str, dict[str, Any]]) -> set[str]:
    return {name for name, row in rows.items() if not row["cached"]}


def digests(rows: dict[str, dict[str, Any]]) -> dict[str, list[str]]:
    """Key and digest of every stage."""
    return {name: [row["key"], row["digest"]] for name, row in rows.items()}


def results(rows: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """What must be equal between a disturbed and an undisturbed run."""
    return {name: (row["key"], row["digest"], row["metrics"]) for name, row in rows.items()}


def _square_that_moves(i: int) -> np.ndarray:
    """(48, 64, 64, 3) uint8, over grains that rest."""
    video = np.tile(rng(0, "ground", i).integers(40, 216, (16, 16, 3)).repeat(4, 0).repeat(4, 1), (48, 1, 1, 1))
    for t, frame in enumerate(video):
        frame[24:40, t : t + 16] = (230, 30, 30) if i else (30, 30, 230)
    return video.astype(np.uint8)


def uncaptioned(folder: Path) -> Path:
    """Two clips that nobody captioned, added to the raw set."""
    for i in range(2):
        write_video(folder / f"{i}.mp4", _square_that_moves(i), 8)
    return folder


def local_run(factory: pytest.TempPathFactory) -> Smoke:
    """The local smoke cascade of this test session, with MLflow and Prefect; `first` holds its rows.

    Whichever test of whichever process asks first makes it, the others wait for it.
    """
    base = factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "smoke"
    folder.mkdir(exist_ok=True)
    made, rows = Smoke(folder, f"raw={folder / 'raw'}"), folder / "rows.json"
    with (folder / "lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        if not rows.exists():
            uncaptioned(folder / "raw")
            storage.write_json(rows, made.run())
    made.first = storage.read_json(rows)
    return made


@pytest.fixture(scope="module")
def smoke(tmp_path_factory: pytest.TempPathFactory) -> Smoke:
    """See `local_run`. A test that changes its store mends it."""
    return local_run(tmp_path_factory)
