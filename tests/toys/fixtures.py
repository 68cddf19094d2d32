"""Pytest fixtures of the toy cascade, taken over by the conftest files that need them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

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
def new_mlflow(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database of MLflow as the first client makes it, to be copied: its fifty migrations take seconds."""
    from mlflow import MlflowClient

    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    MlflowClient(f"sqlite:///{path}", f"sqlite:///{path}").search_registered_models()
    return path


@pytest.fixture
def mini(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    from mini import Mini

    return Mini(tmp_path, capsys)
