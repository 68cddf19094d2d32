"""Pytest fixtures of the toy cascade, taken over by the conftest files that need them."""

from __future__ import annotations

import importlib.metadata
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from stepvideo import storage

TOYS = Path(__file__).parent


@pytest.fixture(autouse=True)
def toys(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The toy stages are known here and in every process that is started from here."""
    import toy_stages

    before = dict(os.environ)  # a run in this process sets defaults for Prefect and MLflow
    monkeypatch.setenv("STEPVIDEO_KINDS", toy_stages.KINDS)
    path = [str(TOYS), str(TOYS.parents[1]), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, path)))
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture(scope="session")
def new_mlflow(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Path:
    """A database of MLflow as the first client makes it, to be copied.

    Its fifty migrations take seconds, so it is kept in pytest's cache for this version of MLflow, all workers and runs.
    """
    version = importlib.metadata.version("mlflow")
    kept = Path(request.config.cache.mkdir(f"mlflow-{version}")) / "mlflow.db"  # type: ignore[union-attr]
    if not kept.exists():
        from mlflow import MlflowClient

        path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
        MlflowClient(f"sqlite:///{path}", f"sqlite:///{path}").search_registered_models()
        storage.write_atomic(kept, path.read_bytes())
    return kept


@pytest.fixture(scope="session")
def new_prefect(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Path:
    """The same of Prefect: a database as its server makes it at its first start."""
    version = importlib.metadata.version("prefect")
    kept = Path(request.config.cache.mkdir(f"prefect-{version}")) / "prefect.db"  # type: ignore[union-attr]
    if not kept.exists():
        home = tmp_path_factory.mktemp("prefect")
        command = [sys.executable, "-m", "prefect", "server", "database", "upgrade", "-y"]
        subprocess.run(command, env=os.environ | {"PREFECT_HOME": str(home)}, check=True, capture_output=True)
        storage.write_atomic(kept, (home / "prefect.db").read_bytes())
    return kept


@pytest.fixture
def mini(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    from mini import Mini

    return Mini(tmp_path, capsys)
