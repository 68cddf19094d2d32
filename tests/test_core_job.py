"""`python -m stepvideo.job DIR`: exit codes, what it leaves behind, code that is not the planned one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from stepvideo import job, storage
from stepvideo.artifact import Store, key_of, lock
from stepvideo.config import StageConfig, dump
from stepvideo.errors import ConfigError
from stepvideo.fingerprint import fingerprint
from stepvideo.sink import read_events
from stepvideo.stage import StageSpec, kind

PLUGIN = """
import os, signal, time
from dataclasses import dataclass
from stepvideo.config import StageConfig
from stepvideo.errors import Preempted, StepVideoError

@dataclass
class Config(StageConfig):
    do: str = "write"

def run(ctx):
    match ctx.config.do:
        case "write" if ctx.rank == 0:
            (ctx.out / "a").write_text("1")
        case "linger":  # on a node that was cut off, while the next attempt has begun on another
            (ctx.out / "a").write_text("1")
            ctx.sink.event("attempt_started", pid=os.getpid(), host="another node")
        case "nothing":
            pass
        case "raise":
            raise RuntimeError("broken")
        case "refuse":
            raise StepVideoError("your mistake")
        case "stop":
            os.kill(os.getpid(), signal.SIGTERM)
            assert ctx.should_stop()
            (ctx.work / "state").write_text("saved")
            raise Preempted
        case "second fails":
            if ctx.rank == 1:
                raise RuntimeError("rank one is broken")
            while not ctx.should_stop():
                time.sleep(0.01)
            raise Preempted
    return {"value": 1}
"""


@pytest.fixture
def spec(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "job_plugin.py").write_text(PLUGIN)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{Path(job.__file__).parents[1]}")
    monkeypatch.setenv("STEPVIDEO_KINDS", "one=job_plugin:run,job_plugin:Config")
    monkeypatch.delitem(sys.modules, "job_plugin", raising=False)

    def make(do: str = "write", nproc: int = 1) -> Path:
        store = Store(tmp_path / "store")
        config = dump(StageConfig()) | {"do": do}
        config["runtime"]["nproc"] = nproc
        made = StageSpec("one", "one", "", config, {}, str(store.root), fingerprint("job_plugin"), {"who": "me"})
        made.key = key_of(made.hashed())
        directory = store.dir("one", made.key)
        made.write(directory / "spec.json")
        return directory

    return make


def process(directory: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "stepvideo.job", str(directory)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def test_done(spec) -> None:
    directory = spec()
    assert job.main(directory) == 0
    manifest = storage.read_json(directory / "manifest.json")
    assert manifest["metrics"] == {"value": 1.0} and manifest["lineage"] == {"who": "me"}
    assert list(manifest["files"]) == ["a"] and manifest["finished"] >= manifest["started"]
    left = {p.name for p in directory.iterdir()}
    assert left == {"spec.json", "events.jsonl", "lock", "manifest.json", "out"}
    before = (directory / "manifest.json").read_bytes()
    assert job.main(directory) == 0 and (directory / "manifest.json").read_bytes() == before  # a hit does nothing


@pytest.mark.parametrize(
    ("do", "user", "said"),
    [("raise", False, "broken"), ("refuse", True, "your mistake"), ("nothing", True, "without writing anything")],
)
def test_failed(spec, do: str, user: bool, said: str) -> None:
    directory = spec(do)
    assert job.main(directory) == 1
    error = storage.read_json(directory / "error.json")
    assert error["user"] is user and said in error["message"] and "Traceback" in error["traceback"]
    assert not (directory / "out").exists() and not (directory / "heartbeat.json").exists()
    assert read_events(directory / "events.jsonl")[0][-1]["name"] == "failed"


def test_preempted(spec) -> None:
    before = signal.getsignal(signal.SIGTERM)
    directory = spec("stop")
    assert job.main(directory) == 75
    assert signal.getsignal(signal.SIGTERM) == before
    assert (directory / "work" / "state").read_text() == "saved" and not (directory / "error.json").exists()
    assert read_events(directory / "events.jsonl")[0][-1]["name"] == "preempted"
    assert process(directory).returncode == 75


def test_busy(spec) -> None:
    directory = spec()
    with lock(directory) as mine:
        assert mine and job.main(directory) == 3
        assert process(directory).returncode == 3
    assert job.main(directory) == 0


def test_an_attempt_that_was_superseded_leaves_no_result(spec) -> None:
    directory = spec("linger")
    assert job.main(directory) == job.EXIT_BUSY
    assert not (directory / "manifest.json").exists() and not (directory / "error.json").exists()


def test_two_ranks(spec) -> None:
    directory = spec("write", nproc=2)
    done = process(directory)
    assert done.returncode == 0, done.stderr
    assert read_events(directory / "events.jsonl")[0][0]["world_size"] == 2
    failing = spec("second fails", nproc=2)
    done = process(failing)
    assert done.returncode == 1
    error = storage.read_json(failing / "error.json")
    assert error["rank"] == 1 and error["message"] == "rank one is broken"


def test_no_rank_waits_for_the_others_where_the_artifact_is_there(spec, monkeypatch: pytest.MonkeyPatch) -> None:
    """Slurm requeues a job that ends while it is preempted."""
    directory = spec("write", nproc=2)
    assert process(directory).returncode == 0
    events = (directory / "events.jsonl").read_bytes()
    monkeypatch.setattr(job, "_guarded", lambda *_: pytest.fail("it would wait for the first rank"))
    for rank in ("0", "1"):
        for name, value in {"RANK": rank, "WORLD_SIZE": "2"}.items():
            monkeypatch.setenv(name, value)
        assert job.main(directory) == 0
    assert (directory / "events.jsonl").read_bytes() == events


def test_other_code_than_planned_is_refused(spec, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = spec()
    planned = storage.read_json(directory / "spec.json")
    storage.write_json(directory / "spec.json", planned | {"fingerprint": "0" * 16})
    assert job.main(directory) == 1
    assert "is not the code it was planned with" in storage.read_json(directory / "error.json")["message"]
    monkeypatch.setenv(job.EXPECT_CODE, "1")
    assert job.main(directory) == 0


def test_a_bad_spec_is_one_line(tmp_path: Path) -> None:
    storage.write_json(tmp_path / "spec.json", {"inputs": {}, "what": 1})
    done = process(tmp_path)
    assert done.returncode == 1 and "is not a stage spec" in done.stderr and "Traceback" not in done.stderr
    assert "is missing" in process(tmp_path / "none").stderr


@pytest.mark.parametrize("entry", ["one", "one=a:b", "one=a,b:c"])
def test_a_bad_plugin_is_named(monkeypatch: pytest.MonkeyPatch, entry: str) -> None:
    monkeypatch.setenv("STEPVIDEO_KINDS", entry)
    with pytest.raises(ConfigError, match=entry):
        kind("one")
