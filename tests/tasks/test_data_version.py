"""Lineage of data and code, and data that is fetched when it is missing."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from stepvideo.errors import ArtifactError
from tasks.data_version import code_version, data_version, lineage, pull_if_missing


def git(root: Path, *args: str) -> None:
    identity = ["-c", "user.name=t", "-c", "user.email=t@t"]
    subprocess.run(["git", "-C", str(root), *identity, *args], check=True, capture_output=True)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    (tmp_path / "stepvideo").mkdir()
    (tmp_path / "stepvideo" / "a.py").write_text("X = 1\n")
    (tmp_path / "data.dvc").write_text("outs:\n- md5: abc123.dir\n  size: 1\n  path: data\n")
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-qm", "first")
    return tmp_path


def test_versions(checkout: Path) -> None:
    found = lineage(checkout)
    assert found["data_md5"] == "abc123.dir" and "path: data" in found["data_dvc"]
    assert len(found["git_sha"]) == 40 and found["git_dirty"] == ""
    (checkout / "stepvideo" / "a.py").write_text("X = 2\n")
    dirty = code_version(checkout)["git_dirty"]
    (checkout / "stepvideo" / "a.py").write_text("X = 3\n")
    assert len({dirty, code_version(checkout)["git_dirty"], ""}) == 3
    assert code_version(checkout)["git_sha"] == found["git_sha"]


def test_outside_git_and_dvc_there_is_none(tmp_path: Path) -> None:
    assert data_version(tmp_path) == {} and code_version(tmp_path / "none") == {}


def test_missing_data(checkout: Path) -> None:
    with pytest.raises(ArtifactError, match="give data=DIR"):
        pull_if_missing(checkout / "elsewhere", checkout)
    with pytest.raises(ArtifactError, match="could not restore"):
        pull_if_missing(checkout / "data", checkout)  # there is no DVC set up here
    (checkout / "data").mkdir()
    assert pull_if_missing(checkout / "data", checkout) is False


def test_a_clone_gets_its_data(tmp_path: Path) -> None:
    """With a remote in a folder and no server, as this repository has it."""
    import sys

    origin = tmp_path / "origin"
    (origin / "data").mkdir(parents=True)
    (origin / "data" / "clip.txt").write_text("frames")

    def dvc(*args: str) -> None:
        subprocess.run([sys.executable, "-m", "dvc", *args], cwd=origin, check=True, capture_output=True)

    git(origin, "init", "-q")
    dvc("init", "-q")
    dvc("remote", "add", "-q", "-d", "local", "remote")
    dvc("add", "-q", "data")
    dvc("push", "-q")
    git(origin, "add", ".")
    git(origin, "commit", "-qm", "data")
    clone = tmp_path / "clone"
    subprocess.run(["git", "clone", "-q", str(origin), str(clone)], check=True)
    assert not (clone / "data").exists()
    assert pull_if_missing(clone / "data", clone) is True
    assert (clone / "data" / "clip.txt").read_text() == "frames"
