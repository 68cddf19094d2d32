"""A stage as a job array: elements that wait for nobody, one of which is killed, and the same bytes in the end."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import pytest
import toy_parts

from stepvideo import job
from stepvideo.artifact import Store, is_running, key_of
from stepvideo.config import dump, load
from stepvideo.errors import ConfigError
from stepvideo.fingerprint import fingerprint
from stepvideo.sink import read_events
from stepvideo.stage import StageSpec
from stepvideo.storage import checksums, read_json
from tasks.launch import SubmititLocal
from tasks.launchers import launcher
from tasks.ledger import Ledger
from tasks.stages import Cancelled, run_stage

TOYS = Path(toy_parts.__file__).parent


@pytest.fixture
def spec(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """spec(store, config) → a spec of the toy stage, its directory."""
    monkeypatch.setenv("STEPVIDEO_KINDS", toy_parts.KINDS)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(TOYS), str(TOYS.parents[1])]))
    monkeypatch.setenv(job.EXPECT_CODE, "1")

    def make(store: str, **config) -> tuple[StageSpec, Path]:
        kept = Store(tmp_path / store)
        typed = dump(load(toy_parts.PartsConfig, config))
        made = StageSpec("parts", "toy-parts", "", typed, {}, str(kept.root), fingerprint("toy_parts"))
        made.key = key_of(made.hashed())
        directory = kept.dir("parts", made.key)
        made.write(directory / "spec.json")
        return made, directory

    return make


def events(directory: Path, name: str) -> list[dict]:
    return [e for e in read_events(directory / "events.jsonl")[0] if e.get("name") == name]


def test_an_array_with_a_killed_element_ends_as_one_job_does(spec) -> None:
    _, alone = spec("alone", runtime={"workers": 1})
    assert job.main(alone) == 0
    made, directory = spec("array", kill=1, runtime={"array": 3, "workers": 1, "max_attempts": 2})
    outcome = run_stage(made, SubmititLocal(), grace_s=5)
    assert outcome.attempts == 2 and [a["exit"] for a in Ledger(directory).attempts] == [1, 0]
    assert checksums(directory / "out") == checksums(alone / "out")
    first, again = events(directory, "share_done")[:2], events(directory, "share_done")[2:]
    assert sorted(e["element"][0] for e in first) == [0, 2] and all(e["missing"] for e in first)
    assert 5 in {e["missing"] for e in first}  # the two that lived did their shares, and nobody else's
    assert {e["element"][0] for e in again} >= {1} and events(directory, "attempt_started")
    assert outcome.artifact.metrics["processes"] == 3
    assert all((directory / f"logs/attempt-1{i}.err").exists() for i in (".0", ".1", ".2"))


def test_a_cancelled_array_leaves_no_element_and_the_same_command_goes_on(spec) -> None:
    made, directory = spec("array", part_s=0.5, runtime={"array": 2, "workers": 1})
    cancel = threading.Event()
    driver = threading.Thread(target=_cancelled, args=(made, cancel))
    driver.start()
    deadline = time.monotonic() + 60
    while len(list(directory.glob("work/parts/*.json"))) < 2:
        assert time.monotonic() < deadline and driver.is_alive()
        time.sleep(0.05)
    assert is_running(directory)
    cancel.set()
    driver.join(30)
    assert not driver.is_alive() and not is_running(directory) and not (directory / "manifest.json").exists()
    kept = {p: p.stat().st_mtime_ns for p in directory.glob("work/parts/*.json")}
    assert [job.main(directory, (i, 2)) for i in (0, 1)] == [0, 0]
    assert len(read_json(directory / "out/squares.json")) == 30
    assert all(p.name for p in kept) and not (directory / "work").exists()


def _cancelled(made: StageSpec, cancel: threading.Event) -> None:
    with pytest.raises(Cancelled):
        run_stage(made, SubmititLocal(), grace_s=5, cancel=cancel)


def test_launchers_without_a_queue_say_so(spec) -> None:
    made, _ = spec("array", runtime={"array": 3})
    for name in ("local", "debug"):
        with pytest.raises(ConfigError, match=f"runtime.array=3 needs a launcher with a queue.*cluster={name}"):
            run_stage(made, launcher(name))


def test_elements_by_hand(spec) -> None:
    """In any order; the last one makes the artifact, and those that come after find it."""
    _, directory = spec("hand", runtime={"workers": 1})
    assert job.main(directory, (2, 3)) == job.main(directory, (0, 3)) == 0 and not (directory / "out").exists()
    assert job.main(directory, (1, 3)) == 0 and (directory / "manifest.json").exists()
    assert job.main(directory, (0, 3)) == 0
    assert [e["missing"] for e in events(directory, "share_done")] == [10, 5, 0]
