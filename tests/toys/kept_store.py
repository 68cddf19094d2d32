"""Stores under gc: whether they are whole, and gc that is killed or works beside runs."""

from __future__ import annotations

import json
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

from stepvideo import storage
from stepvideo.artifact import damage

ROOT = Path(__file__).resolve().parents[2]
NOW = ("--older-than", "0s")


def gc(mini, *args: str, code: int = 0) -> dict:
    found, out, err = mini.cli("gc", "--json", "--store", str(mini.store.root), *args)
    assert found == code, err
    return json.loads(out) if code == 0 else {"error": err}


def keys(mini) -> set[tuple[str, str]]:
    return {(a.manifest["stage"], a.manifest["key"]) for a in mini.store.artifacts()}


def is_closed(mini) -> bool:
    """Every artifact is whole, and all that it was made from is there."""
    there = keys(mini)
    for artifact in mini.store.artifacts():
        assert not damage(artifact.dir, artifact.manifest), artifact.dir
        assert all((i["stage"], i["key"]) in there for i in artifact.manifest["inputs"].values()), artifact.dir
    return True


def grown(mini, count: int) -> None:
    """Some families of artifacts, of several files each, copied from one run's with keys of their own."""
    rows = mini.run()
    for i in range(count):
        new = {n: f"{i:08x}{r['key'][:8]}" for n, r in rows.items()}
        for name, row in rows.items():
            source, target = mini.store.dir(name, row["key"]), mini.store.dir(name, new[name])
            shutil.copytree(source, target)
            for paper in ("manifest.json", "spec.json"):
                data = storage.read_json(target / paper)
                data["key"] = new[name]
                for ref in data["inputs"].values():
                    ref["key"] = new[ref["stage"]]
                storage.write_json(target / paper, data)


def killed_gcs(mini, families: int, kills: int) -> None:
    """gc, killed at random moments of its work, again and again; then whole."""
    grown(mini, families)
    code = (
        "import sys; from stepvideo import cli; "
        f"sys.exit(cli.main(['gc', '--apply', '--json', '--older-than', '0s', '--store', {str(mini.store.root)!r}]))"
    )
    before, chance, killed = len(keys(mini)), random.Random(5), 0
    for _ in range(kills):
        process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.DEVNULL)
        start = len(keys(mini))
        deadline = time.monotonic() + 60
        while process.poll() is None and len(keys(mini)) >= start and time.monotonic() < deadline:
            time.sleep(0.002)  # until it removes
        time.sleep(chance.uniform(0, 0.03))
        process.send_signal(signal.SIGKILL)
        killed += process.wait() == -signal.SIGKILL
        assert is_closed(mini)
    assert killed >= kills / 2 and len(keys(mini)) < before
    assert mini.cli("gc", "--apply", "--older-than", "0s", "--store", str(mini.store.root))[0] == 0
    assert is_closed(mini) and len(keys(mini)) == 3 and not list(mini.store.root.glob("_trash/*/*"))
    assert mini.ran() == []  # the kept run is whole


def runs_beside_gc(mini, count: int) -> None:
    """gc with no mercy, over and over, while runs come, find artifacts, make them, and use them."""
    slow = "stages.fit.step_s=0.02"  # gc has time between a stage and the next one that needs it
    expected = {n: r["digest"] for n, r in mini.run(slow).items()}
    code = (
        "import sys, os; from flows.gc import Asked, gc_command\n"
        f"while not os.path.exists({str(mini.folder / 'stop')!r}):\n"
        f"    gc_command({str(mini.store.root)!r}, Asked('0s', 0, apply=True, as_json=True))\n"
    )
    log = (mini.folder / "gc.log").open("w+")
    process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=log, stderr=log)
    made = 0
    try:
        deadline = time.monotonic() + 1800  # a busy machine takes its time
        while made < count and time.monotonic() < deadline:
            rows = mini.run(slow)
            assert {n: r["digest"] for n, r in rows.items()} == expected
            made += any(not r["cached"] for r in rows.values())
    finally:
        (mini.folder / "stop").touch()
        process.wait(60)
    log.seek(0)
    said = log.read()
    assert process.returncode == 0 and "Traceback" not in said, said[-2000:]
    assert made == count and is_closed(mini)  # gc did take artifacts from between the runs
