"""`stepvideo status --all` and `--disk`: every run with its state and cost, and what the disk holds."""

from __future__ import annotations

import json
import os
from collections import namedtuple

from flows.screen import key_metric
from stepvideo import storage
from stepvideo.artifact import Artifact
from stepvideo.evaluation.stats import wilson
from tasks.record import records


def status(mini, *args: str) -> tuple[int, dict]:
    code, out, err = mini.cli("status", "--json", "--store", str(mini.store.root), *args)
    assert not err, err
    return code, json.loads(out)


def test_all_runs_newest_first_and_the_exit_code_is_the_newest_ones(mini) -> None:
    mini.run("stages.fit.step_s=0.01", "runtime.nproc=1")
    mini.run()
    code, said = status(mini, "--all")
    newest, first = said["runs"]
    assert code == 0 and [r["id"] for r in said["runs"]] == [r.data["id"] for r in records(mini.store)[::-1]]
    assert first["done"] == first["total"] == 3 and first["rank_hours"] > 0.2 / 3600 and first["state"] == "done"
    sizes = {a.manifest["stage"]: sum(f["size"] for f in a.manifest["files"].values()) for a in mini.store.artifacts()}
    assert newest["bytes"] == sum(sizes.values()) and first["seconds"] >= 0.2
    mini.fails("stages.fit.fail_at=3", "stages.fit.user_error=true")
    code, said = status(mini, "--all")
    assert code == 1 and said["runs"][0]["state"] == "failed" and said["runs"][0]["done"] == 1
    code, out, _ = mini.cli("status", "--all", "--store", str(mini.store.root))
    assert code == 1 and "2 done, 1 failed" in out and "next: " in out


def test_a_rate_is_said_with_its_interval_and_a_loss_without(tmp_path) -> None:
    metrics = {"n": 10.0, **wilson(9, 10).named("heldout/all")}
    assert key_metric(Artifact(tmp_path, {"kind": "evaluate", "metrics": metrics})) == (
        "heldout/all 0.9 (0.5958 to 0.9821)"
    )
    assert key_metric(Artifact(tmp_path, {"kind": "train", "metrics": {"loss": 0.25}})) == "loss 0.25"


def test_a_cached_run_costs_nothing_and_a_killed_one_is_said_to_be(mini) -> None:
    mini.run()
    mini.run()
    assert status(mini, "--all")[1]["runs"][0]["rank_hours"] == 0
    record = records(mini.store)[-1]
    storage.write_json(record.path, {**record.data, "state": "running", "ended": None})
    code, said = status(mini, "--all")
    assert code == 1 and said["runs"][0]["state"] == "killed"


def test_disk_by_stage_and_what_gc_would_free(mini, monkeypatch) -> None:
    mini.run("stages.fit.fill=2000000")
    damaged = mini.store.root / "_probe" / "old" / "x"
    damaged.parent.mkdir(parents=True)
    damaged.write_bytes(bytes(10_000))

    for path in (damaged, damaged.parent):
        os.utime(path, (1e9, 1e9))
    code, said = status(mini, "--disk")
    rows = {r["stage"]: r for r in said["stages"]}
    assert rows["fit"]["bytes"] >= 2_000_000 and rows["fit"]["artifacts"] == 1 and rows["fit"]["gc"] == 0
    assert said["gc"] == rows["_probe"]["gc"] >= 10_000 and said["registry"] == ""
    assert said["bytes"] == sum(r["bytes"] for r in rows.values())
    monkeypatch.setattr("shutil.disk_usage", lambda _: namedtuple("Usage", "total used free")(100, 95, 5))
    code, out, _ = mini.cli("status", "--disk", "--store", str(mini.store.root))
    assert code == 1 and "5 B of 100 B are free" in out
