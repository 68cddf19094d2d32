"""kill -9 of promotions and rollbacks before every change that they make: the champion is the old one or the new one,
and whoever comes next finishes it."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from made_champions import Made
from mini import ROOT

from tasks import promotion

pytestmark = pytest.mark.soak


def run(made: Made, verb: str, number: int, k: int) -> int:
    toys = ROOT / "tests" / "toys"
    path = os.pathsep.join([str(toys), str(ROOT), os.environ.get("PYTHONPATH", "")])
    argv = [sys.executable, "-m", "killed_promotion", str(made.store.root), verb, str(number), str(k)]
    done = subprocess.run(argv, cwd=ROOT, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True)
    assert done.returncode in (0, -signal.SIGKILL), done.stderr
    return done.returncode


@pytest.mark.parametrize("verb", ["promote", "rollback"])
def test_whole_or_absent(tmp_path: Path, verb: str) -> None:
    kills = 0
    for k in range(1, 40):
        folder = tmp_path / str(k)
        (folder / "work").mkdir(parents=True)
        made = first(folder) if k == 1 else copied(tmp_path, k)
        if k == 1:
            made.registry.set_alias("champion", 1)
            made.evidence(2)
            if verb == "rollback":
                assert run(made, "promote", 2, 99) == 0
            shutil.copytree(folder, tmp_path / "first")
        before, after = (1, 2) if verb == "promote" else (2, 1)
        died = run(made, verb, 2, k) != 0
        registry = made.registry
        assert registry.aliases()["champion"] in (before, after)
        records = promotion.history(made.store)
        states = [r["state"] for r in records]
        print(f"{verb} killed before change {k}: champion {registry.aliases()['champion']}, {states}")
        if not died:
            break
        kills += 1
        assert run(made, verb, 2, 99) == 0
        assert made.registry.aliases()["champion"] == after
        assert {r["state"] for r in promotion.history(made.store)} == {"done"}
        if verb == "promote":
            assert made.registry.aliases() == {"candidate": 2, "champion": 2, "previous": 1}
    assert kills >= 5 and made.registry.aliases()["champion"] == after


def first(folder: Path) -> Made:
    from mlflow import MlflowClient

    uri = f"sqlite:///{folder}/work/mlflow.db"
    MlflowClient(uri, uri).search_registered_models()  # makes the database
    return Made(folder, uri, 0.7, 1.0)


def copied(root: Path, k: int) -> Made:
    """The first one's store and registry in a folder of their own."""
    folder = root / str(k)
    shutil.rmtree(folder)
    shutil.copytree(root / "first", folder)
    old, new = str(root / "1"), str(folder)
    for path in (*folder.glob("store/_runs/*/run.json"), *folder.glob("store/_promotions/*/promotion.json")):
        path.write_text(path.read_text().replace(old, new))
    made = Made(folder, f"sqlite:///{folder}/work/mlflow.db")
    client = made.registry.server.client
    for version in made.registry.versions():
        path = str(version.path).replace(old, new)
        client.set_model_version_tag(version.model, str(version.number), "path", path)
    return made
