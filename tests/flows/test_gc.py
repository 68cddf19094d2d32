"""gc on toy stages: what must stay stays, and what goes is what it said."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest
from kept_store import NOW, gc, is_closed, keys

from flows.gc import Asked, make_plan, seconds
from stepvideo import storage
from stepvideo.artifact import lock
from stepvideo.errors import ConfigError
from tasks.keeping_sweep import Watch, sweep
from tasks.record import recorded, records


def test_a_dry_run_changes_nothing_and_apply_removes_what_it_said(mini) -> None:
    old = {(n, r["key"]) for n, r in mini.run().items()}
    new = {(n, r["key"]) for n, r in mini.run("stages.fit.lr=0.2").items()}
    said = gc(mini, *NOW, "--keep-runs", "1")
    assert keys(mini) == old | new and not said["applied"]
    gone = {tuple(i["path"].split("/")[-2:]) for i in said["items"] if i["category"] == "artifacts"}
    assert gone == old - new  # noise is shared: it stays
    done = gc(mini, *NOW, "--keep-runs", "1", "--apply")
    assert [i["path"] for i in done["items"]] == [i["path"] for i in said["items"]] and done["applied"]
    assert keys(mini) == new and is_closed(mini)
    assert len(records(mini.store)) == 1 and not list(mini.store.root.glob("_trash/*/*"))
    assert mini.ran("stages.fit.lr=0.2") == [] and mini.ran() == ["fit", "score"]


def test_what_was_used_lately_and_the_newest_runs_stay(mini) -> None:
    mini.run()
    mini.run("stages.fit.lr=0.2")
    assert gc(mini)["items"] == [] and gc(mini, *NOW)["items"] == []
    for path in mini.store.root.rglob("*"):
        os.utime(path, (1e9, 1e9))
    for record in records(mini.store):  # both ended long ago; one is pinned
        record.data |= {"started": 1e9, "ended": 1e9}
        storage.write_json(record.path, record.data)
    pinned = records(mini.store)[0].data["id"]
    assert mini.cli("gc", "--pin", pinned[-6:], "--store", str(mini.store.root))[0] == 0
    said = gc(mini, "--keep-runs", "0", "--apply")
    assert {r["why"] for r in said["kept"]} <= {f"run {pinned} is kept"} | {
        r["why"] for r in said["kept"] if "made" in r["why"]
    }
    assert [r.data["id"] for r in records(mini.store)] == [pinned] and is_closed(mini)
    assert mini.cli("gc", "--unpin", pinned, "--store", str(mini.store.root))[0] == 0
    gc(mini, "--keep-runs", "0", "--apply")
    assert keys(mini) == set()


def test_leftovers_by_category(mini) -> None:
    rows = mini.run("cluster=local")
    fit = mini.store.dir("fit", rows["fit"]["key"])
    for name in ("work/state.json", "out.tmp/half", "out.damaged-1/model.json", "logs/attempt-0.out"):
        (fit / name).parent.mkdir(exist_ok=True)
        (fit / name).write_text("x" * 5000)
    for place in ("_parts/tags/light-0", "_probe/1", "_trash/1/fit/2"):
        (mini.store.root / place).mkdir(parents=True)
        (mini.store.root / place / "file").write_text("x" * 5000)
    span = mini.store.root / "_telemetry/parquet/span" / f"run={'0' * 16}"
    span.mkdir(parents=True)
    code, out, _ = mini.cli("gc", "--what", *NOW, "--store", str(mini.store.root))
    assert code == 0 and "next: stepvideo gc" in out
    found = {i["category"]: i for i in gc(mini, *NOW)["items"]}
    expected = {"checkpoints", "scratch", "damaged", "logs", "snapshots", "parts", "probes", "trash", "telemetry"}
    assert expected <= set(found) and all(found[c]["bytes"] > 4000 for c in expected - {"telemetry"})
    only = gc(mini, *NOW, "--only", "logs", "--apply")
    assert {i["category"] for i in only["items"]} == {"logs"} and not (fit / "logs/attempt-0.out").exists()
    gc(mini, *NOW, "--apply")
    assert [p.name for p in sorted(fit.iterdir()) if p.is_dir()] == ["logs", "out"] and is_closed(mini)
    assert "give some of" in gc(mini, "--only", "lgs", code=2)["error"]


def test_live_runs_and_jobs_and_what_they_need_stay(mini) -> None:
    rows = mini.run()
    store = mini.store
    with recorded(store, config=records(store)[0].data["config"], until=None, nodes=[]) as live:
        # it has told no key yet: what its plan would take stays; then only a key that it told, and the inputs of that
        assert {r["why"] for r in gc(mini, *NOW, "--keep-runs", "0")["kept"]} == {f"run {live.data['id']} is at work"}
        live.update(config={**live.data["config"], "graph": "no.such.graph"}, nodes=[])
        live.update_stage("fit", key=rows["fit"]["key"], state="running")
        gc(mini, *NOW, "--keep-runs", "0", "--apply")
        assert keys(mini) == {(n, rows[n]["key"]) for n in ("noise", "fit")}
    fit = store.dir("fit", rows["fit"]["key"])
    with lock(fit):  # a job that somebody started by hand
        storage.write_json(fit / "heartbeat.json", {"host": os.uname().nodename, "time": time.time(), "pid": 1})
        gc(mini, *NOW, "--keep-runs", "0", "--apply")
        assert ("noise", rows["noise"]["key"]) in keys(mini)
    (fit / "heartbeat.json").unlink()
    storage.write_json(fit / "slurm.json", {"name": "x", "time": 0, "job_id": None})  # its end is not known
    gc(mini, *NOW, "--keep-runs", "0", "--apply")
    assert len(keys(mini)) == 2
    (fit / "slurm.json").unlink()
    gc(mini, *NOW, "--keep-runs", "0", "--apply")
    assert keys(mini) == set()


def test_what_is_named_stays(mini, tmp_path: Path) -> None:
    rows = mini.run()
    notes = tmp_path / "notes"
    notes.mkdir()
    (notes / "study.json").write_text(json.dumps({"shows": rows["fit"]["key"]}))
    promoted = mini.store.root / "_promotions" / "1.json"
    storage.write_json(promoted, {"model": {"digest": rows["score"]["digest"]}})
    assert len(gc(mini, *NOW, "--keep-runs", "0")["kept"]) == 3
    promoted.unlink()
    gc(mini, *NOW, "--keep-runs", "0", "--keep-for", str(notes), "--apply")
    assert keys(mini) == {(n, rows[n]["key"]) for n in ("noise", "fit")}
    assert "no such file" in gc(mini, "--keep-for", str(tmp_path / "absent"), code=2)["error"]


def test_two_at_once_and_wrong_options(mini) -> None:
    mini.run()
    with lock(mini.store.root / "_trash"):
        assert "another gc" in gc(mini, "--apply", code=2)["error"]
    assert "such as 30d" in gc(mini, "--older-than", "soon", code=2)["error"]
    assert "0 or more" in gc(mini, "--keep-runs", "-1", code=2)["error"]
    assert seconds("2w") == 14 * seconds("1d") == 336 * seconds("1 h")
    with pytest.raises(ConfigError):
        seconds("5 m")


@pytest.mark.parametrize("live", [True, False])
def test_what_a_run_took_between_plan_and_removal_stays(mini, live: bool) -> None:
    rows = mini.run()
    store = mini.store
    plan = make_plan(store, Asked("0s", 0))
    assert {i.path.parent.name for i in plan.items if i.category == "artifacts"} == set(rows)
    with recorded(store, config=plan.everyone[0].data["config"], until=None, nodes=[]) as run:
        run.update_stage("fit", key=rows["fit"]["key"], state="running")
        if live:
            swept = sweep(store, plan.items, Watch(store, plan.everyone, lambda _: ()))
    if not live:  # it has ended meanwhile
        swept = sweep(store, plan.items, Watch(store, plan.everyone, lambda _: ()))
    stayed = {s.item.path.parent.name: s.stayed for s in swept if s.stayed}
    assert set(stayed) == {"fit", "noise"} and run.data["id"] in stayed["fit"] and "made from it" in stayed["noise"]
    assert keys(mini) == {(n, rows[n]["key"]) for n in ("noise", "fit")}
