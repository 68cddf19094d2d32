"""`data.dvc` of this commit: restored without a server, and nothing held out in it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from stepvideo.world import sidecar
from stepvideo.world.attributes import Attrs, is_held_out

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def pulled(tmp_path_factory):
    """The data of a copy that has neither the cache nor git."""
    pytest.importorskip("dvc", reason="dvc is not installed")
    copy = tmp_path_factory.mktemp("pull")
    shutil.copy(ROOT / "data.dvc", copy)
    shutil.copytree(ROOT / "dvc-remote", copy / "dvc-remote")
    (copy / ".dvc").mkdir()
    text = (ROOT / ".dvc" / "config").read_text()
    (copy / ".dvc" / "config").write_text(text.replace("[core]", "[core]\n    no_scm = true"))
    env = {**os.environ, "DVC_NO_ANALYTICS": "1", "DVC_SITE_CACHE_DIR": str(copy / "site")}
    done = subprocess.run(
        [sys.executable, "-m", "dvc", "pull"], cwd=copy, env=env, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return copy / "data"


def test_pull_restores_every_file_that_the_sidecars_name(pulled):
    records = sidecar.read(pulled / "raw")
    files = {p.name for p in (pulled / "raw").iterdir()}
    assert len(records) > 60 and files == {r["file"] for r in records} | {sidecar.NAME}
    assert (pulled / "world.yaml").exists()


def test_nothing_held_out_is_in_the_data(pulled):
    shots = [s for r in sidecar.read(pulled / "raw") for s in r["shots"]]
    assert len(shots) > 100
    assert not any(is_held_out(Attrs.from_dict(a)) for s in shots for a in s["attributes"])


def test_the_remote_inside_the_repository_is_small():
    assert sum(p.stat().st_size for p in (ROOT / "dvc-remote").rglob("*") if p.is_file()) < 15e6
