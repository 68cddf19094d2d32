"""The `smoke` cascade through the command line, in processes of their own as a user's would be, or in this one."""

from __future__ import annotations

import contextlib
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

from stepvideo.artifact import Store
from stepvideo.cli import main
from stepvideo.data.draw import rng
from stepvideo.data.video_io import write_video
from stepvideo.storage import write_json

ROOT = Path(__file__).resolve().parents[2]


class Smoke:
    """One folder with a store and tracking databases."""

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


def with_bare_clips(folder: Path, *settings: str) -> Smoke:
    """A smoke cascade to be run; two clips that nobody captioned are added to the raw set."""
    for i in range(2):
        write_video(folder / f"raw/{i}.mp4", _square_that_moves(i), 8)
    return Smoke(folder, f"raw={folder / 'raw'}", *settings)


def record(sessions: pytest.TempPathFactory) -> Path:
    """Where the test processes of a session find the digests of that cascade, once one of them has run it here."""
    own = sessions.getbasetemp()
    return (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "smoke.json"


@pytest.fixture(scope="module")
def smoke(tmp_path_factory: pytest.TempPathFactory) -> Smoke:
    """A finished smoke cascade, with MLflow and Prefect; `first` holds its rows and `first_s` its seconds."""
    made = with_bare_clips(tmp_path_factory.mktemp("smoke"))
    started = time.monotonic()
    made.first = made.run()  # type: ignore[attr-defined]
    made.first_s = time.monotonic() - started  # type: ignore[attr-defined]
    write_json(record(tmp_path_factory), digests(made.first))  # type: ignore[attr-defined]
    return made
