"""Three toy stages through every launcher: hits, changes, damage, failures, preemption, unwritable places."""

from __future__ import annotations

import json
import os
import resource
import time
from pathlib import Path

import pytest

from stepvideo import storage


def snapshot(store: Path) -> dict[str, str]:
    """Content of every artifact, by file."""
    return {p.relative_to(store).as_posix(): storage.sha256_file(p) for p in store.glob("*/*/out/**/*") if p.is_file()}


@pytest.mark.parametrize("cluster", ["debug", "local", "submitit-local"])
def test_fresh_then_cached_then_changed(mini, tmp_path, cluster: str) -> None:
    """By every launcher, with the result of a run in this process."""
    first = mini.run(f"cluster={cluster}")
    assert [name for name, row in first.items() if not row["cached"]] == ["noise", "fit", "score"]
    here = mini.run(f"store={tmp_path / 'here'}")
    assert {n: (r["key"], r["digest"]) for n, r in first.items()} == {
        n: (r["key"], r["digest"]) for n, r in here.items()
    }
    made = snapshot(mini.store.root)
    assert mini.ran(f"cluster={cluster}") == []
    assert mini.ran(f"cluster={cluster}", "stages.score.offset=1") == ["score"]
    assert mini.ran(f"cluster={cluster}", "stages.fit.lr=0.2") == ["fit", "score"]
    assert mini.ran(f"cluster={cluster}") == []
    assert made.items() <= snapshot(mini.store.root).items()


def test_runtime_settings_change_nothing(mini) -> None:
    mini.run()
    assert mini.ran("stages.fit.runtime.log_every=3", "runtime.workers=1", "runtime.max_attempts=7") == []


def test_equal_bytes_upstream_stop_the_ripple(mini) -> None:
    mini.run()
    assert mini.ran("stages.noise.seed=0", "stages.fit.step_s=0.001") == ["fit"]  # another key, the same model


@pytest.mark.parametrize("stage", ["noise", "fit", "score"])
def test_one_damaged_byte_runs_exactly_that_stage(mini, stage: str) -> None:
    rows = mini.run()
    file = next(p for p in Path(rows[stage]["path"]).iterdir())
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    code, out, _ = mini.cli("plan", "--json", *mini.args())
    plan = {s["stage"]: s for s in json.loads(out)}
    assert code == 0 and plan[stage]["state"] == "run" and file.name in plan[stage]["why"]
    assert mini.ran() == [stage]
    assert mini.run()[stage]["digest"] == rows[stage]["digest"]
    assert list(Path(rows[stage]["path"]).parent.glob("out.damaged-*"))  # kept for inspection


def test_a_lost_file_runs_that_stage(mini) -> None:
    rows = mini.run()
    (Path(rows["fit"]["path"]) / "model.json").unlink()
    assert mini.ran() == ["fit"]


def test_plan_says_why(mini) -> None:
    def plan(*overrides: str) -> dict[str, tuple[str, str]]:
        _, out, _ = mini.cli("plan", "--json", *mini.args(*overrides))
        return {s["stage"]: (s["state"], s["why"]) for s in json.loads(out)}

    assert plan() == {
        "noise": ("run", "not made yet"),
        "fit": ("depends", "depends on noise"),
        "score": ("depends", "depends on fit, noise"),
    }
    assert not mini.store.root.exists()  # a plan writes nothing
    mini.run()
    assert set(plan().values()) == {("hit", "")}
    assert plan("stages.fit.lr=0.3", "stages.fit.steps=30")["fit"] == ("run", "lr 0.1 → 0.3; steps 20 → 30")
    assert plan("stages.noise.count=9")["noise"] == ("run", "count 32 → 9")


def test_until_runs_a_prefix(mini) -> None:
    code, out, _ = mini.cli("run", "--json", "--until", "fit", *mini.args())
    assert code == 0 and [r["stage"] for r in json.loads(out)] == ["noise", "fit"]


def test_independent_stages_may_run_at_once(mini) -> None:
    assert mini.ran("cluster=local", "cluster.concurrency=2") == ["noise", "fit", "score"]


@pytest.mark.parametrize("cluster", ["debug", "local"])
def test_a_failure_is_tried_again_then_told(mini, cluster: str) -> None:
    said = mini.fails(f"cluster={cluster}", "stages.fit.fail_at=5", "runtime.max_attempts=3")
    directory = next(mini.store.root.glob("fit/*"))
    assert "stage fit failed after 3 attempts: RuntimeError: the machine erred" in said
    assert f"python -m stepvideo.job {directory}" in said
    assert len(storage.read_json(directory / "ledger.json")["attempts"]) == 3
    assert not (directory / "manifest.json").exists() and not (directory / "out").exists()
    assert mini.cli("status", "--store", str(mini.store.root))[0] == 1


def test_a_mistake_of_the_users_is_not_tried_again(mini) -> None:
    said = mini.fails("stages.fit.fail_at=5", "stages.fit.user_error=true", "runtime.max_attempts=3")
    assert "the user erred" in said
    assert len(storage.read_json(next(mini.store.root.glob("fit/*/ledger.json")))["attempts"]) == 1


@pytest.mark.parametrize("cluster", ["local", "submitit-local"])
@pytest.mark.parametrize("how", ["kill_at", "preempt_at"])
def test_a_job_that_dies_goes_on(mini, tmp_path, cluster: str, how: str) -> None:
    undisturbed = mini.run(f"store={tmp_path / 'other'}")
    rows = mini.run(f"cluster={cluster}", f"stages.fit.{how}=7")
    assert rows["fit"]["digest"] == undisturbed["fit"]["digest"]
    assert rows["score"]["metrics"] == undisturbed["score"]["metrics"]
    directory = Path(rows["fit"]["path"]).parent
    assert len(storage.read_json(directory / "ledger.json")["attempts"]) == 2
    steps = [e["step"] for e in map(json.loads, (directory / "events.jsonl").open()) if e["type"] == "metrics"]
    assert steps == list(range(20))  # nothing was done twice


def test_preemptions_do_not_count_as_failures(mini) -> None:
    assert mini.ran("cluster=local", "stages.fit.preempt_at=3", "runtime.max_attempts=1") == ["noise", "fit", "score"]


def test_a_stage_that_hangs_is_ended(mini) -> None:
    hang = ["stages.fit.step_s=60", "only.fit.runtime.timeout_s=1", "runtime.max_attempts=1"]
    said = mini.fails("cluster=local", "cluster.grace_s=0.5", *hang)
    assert "longer than runtime.timeout_s" in said


def test_ranks_of_one_job(mini, tmp_path) -> None:
    rows = mini.run("cluster=local", "stages.fit.runtime.nproc=2")
    assert rows["fit"]["metrics"]["ranks"] == 2
    assert rows["fit"]["digest"] == mini.run(f"store={tmp_path / 'other'}")["fit"]["digest"]


def test_an_unwritable_store_is_an_error_that_leaves_nothing(mini, tmp_path) -> None:
    (tmp_path / "file").write_text("")
    said = mini.fails(f"store={tmp_path / 'file' / 'store'}")
    assert str(tmp_path / "file") in said and "choose another store" in said


@pytest.mark.parametrize("cluster", ["debug", pytest.param("local", marks=pytest.mark.soak)])
def test_a_full_disk_leaves_nothing_half_written(mini, cluster: str) -> None:
    mini.run()  # what is there stays good
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4 << 20, hard))  # no file may grow beyond 4 MiB, as on a full disk
    try:
        said = mini.fails(f"cluster={cluster}", f"stages.fit.fill={8 << 20}", "runtime.max_attempts=1")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "stage fit failed" in said and "File too large" in said
    directory = next(d for d in mini.store.root.glob("fit/*") if (d / "error.json").exists())
    assert not (directory / "manifest.json").exists() and not (directory / "out").exists()
    assert mini.ran() == []
    assert mini.ran(f"cluster={cluster}", f"stages.fit.fill={8 << 20}") == ["fit", "score"]


def test_a_cached_run_is_quick(mini) -> None:
    mini.run()
    started = time.monotonic()
    assert mini.ran() == []
    assert time.monotonic() - started < 3


def test_code_is_copied_for_jobs(mini) -> None:
    mini.run("cluster=local")
    copies = list(mini.store.root.glob("_code/*/stepvideo/job.py"))
    assert len(copies) == 1
    assert not list(mini.store.root.glob("_code/*/stepvideo/**/__pycache__/*")) or os.access(copies[0], os.R_OK)
