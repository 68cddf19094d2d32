"""`stepvideo.doctor` tells what is wrong and what to do, quickly, and says what it did not test."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from stepvideo import doctor
from stepvideo.doctor import Check, checks, worst


def named(found: list[Check], name: str) -> Check:
    return next(c for c in found if c.name == name)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "requirements.lock").write_text("# a comment\npytest==1.0\nno-such-package==2.0  # why\n")
    return tmp_path


def test_this_environment_is_the_locks() -> None:
    assert named(checks(), "packages").status == "ok"
    assert named(checks(), "prefect + fastapi").status == "ok"


def test_the_lock_covers_pyproject() -> None:
    """Every range of pyproject.toml, all extras, holds the version that the lock installs."""
    import tomllib

    from packaging.requirements import Requirement

    lock = doctor.locked(doctor.ROOT / "requirements.lock")
    project = tomllib.loads((doctor.ROOT / "pyproject.toml").read_text())["project"]
    ranges = [*project["dependencies"], *sum(project["optional-dependencies"].values(), [])]
    assert len(ranges) > 20
    for requirement in map(Requirement, ranges):
        exact = lock.get(requirement.name.lower().replace("_", "-"))
        assert exact, f"{requirement.name} is not in requirements.lock: make lock"
        assert requirement.specifier.contains(exact), f"{requirement} does not hold {exact}: make lock"


def test_it_takes_less_than_two_seconds_and_imports_nothing_heavy() -> None:
    script = (
        "import sys; from stepvideo.doctor import checks; checks()\n"
        "assert not {'torch', 'numpy', 'prefect', 'mlflow'} & set(sys.modules), 'heavy import'"
    )
    start = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert time.perf_counter() - start < 2.0


def test_missing_and_other_versions_are_named_with_the_fix(root: Path) -> None:
    check = named(checks(root / "store", root), "packages")
    assert check.status == "missing"
    assert "no-such-package" in check.detail
    assert "pytest" in check.detail and "lock: 1.0" in check.detail
    assert check.fix == "make setup"


def test_a_fastapi_that_breaks_prefect_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    real = doctor.installed
    monkeypatch.setattr(doctor, "installed", lambda name: "0.151.0" if name == "fastapi" else real(name))
    monkeypatch.setattr(doctor, "requires", lambda name: ["fastapi<1.0.0,>=0.111.0"])
    check = named(checks(), "prefect + fastapi")
    assert check.status == "missing" and "0.151.0" in check.detail and "<0.151" in check.fix


def test_store(tmp_path: Path) -> None:
    assert named(checks(tmp_path / "new" / "store", tmp_path), "store").status == "ok"
    assert not (tmp_path / "new").exists(), "the doctor leaves nothing behind"
    blocked = tmp_path / "blocked"
    blocked.mkdir()
    assert named(checks(blocked, tmp_path), "store").status == "ok"
    assert list(blocked.iterdir()) == []
    a_file = tmp_path / "file"
    a_file.write_text("")
    check = named(checks(a_file, tmp_path), "store")
    assert check.status == "missing" and str(a_file) in check.detail and check.fix


def test_a_store_that_cannot_be_made_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # root, who runs CI, may write anywhere
    check = named(checks(tmp_path / "store", tmp_path), "store")
    assert check.status == "missing" and "not writable" in check.detail and check.fix


def test_data_pulled_or_not(root: Path) -> None:
    def status() -> str:
        return named(checks(root / "store", root), "data").status

    assert status() == "untested"
    (root / "data.dvc").write_text("outs:\n- md5: 0.dir\n  hash: md5\n  path: data\n")
    assert status() == "missing"
    (root / ".dvc").mkdir()
    (root / ".dvc" / "config").write_text("[core]\n    remote = here\n['remote \"here\"']\n    url = ../kept\n")
    assert status() == "missing"
    (root / "kept").mkdir()
    assert status() == "warn"
    (root / "data").mkdir()
    assert status() == "ok"


def test_what_cannot_run_here_is_listed_as_untested(monkeypatch: pytest.MonkeyPatch, root: Path) -> None:
    monkeypatch.setenv("PATH", str(root))
    for name in doctor.S3_VARIABLES:
        monkeypatch.delenv(name, raising=False)

    def untested() -> set[str]:
        return {c.name for c in checks(root / "store", root) if c.status == "untested"}

    assert {"gpu", "slurm", "browser", "jobs through a real Slurm", "files and data on S3"} <= untested()
    assert any("CUDA" in name for name in untested())
    assert "profile=small" not in untested(), "a profile that does not exist is no path of the project"
    (root / "conf" / "profile").mkdir(parents=True)
    (root / "conf" / "profile" / "small.yaml").write_text("name: small\n")
    assert "profile=small" in untested()
    monkeypatch.setenv("AWS_PROFILE", "team")
    assert "files and data on S3" not in untested()


def test_worst() -> None:
    assert worst([Check("a", "ok", ""), Check("b", "untested", "")]) == "ok"
    assert worst([Check("a", "ok", ""), Check("b", "warn", "")]) == "warn"
    assert worst([Check("a", "warn", ""), Check("b", "missing", "")]) == "missing"
