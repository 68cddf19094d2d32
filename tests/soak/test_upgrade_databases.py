"""Prefect's database and PostgreSQL's, down by their own migrations and up by ours."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import postgresql_server
import pytest

from tasks.migration_databases import BEHIND, CURRENT, Database, look, upgrade
from tasks.team import python_packages

pytestmark = pytest.mark.soak


def prefect(url: str, *args: str) -> None:
    env = os.environ | {"PREFECT_API_DATABASE_CONNECTION_URL": url, "PREFECT_API_URL": ""}
    command = [sys.executable, "-m", "prefect", "server", "database", *args, "--yes"]
    subprocess.run(command, env=env, check=True, capture_output=True, timeout=3600)


def down_and_up(database: Database, lower) -> Path | None:
    assert look(database).state == CURRENT
    lower()
    assert look(database).state == BEHIND
    copy = upgrade(database)
    assert look(database).state == CURRENT
    return copy


def test_prefects_sqlite(tmp_path: Path) -> None:
    url = f"sqlite+aiosqlite:///{tmp_path / 'prefect.db'}"
    prefect(url, "upgrade")
    copy = down_and_up(Database("prefect", url), lambda: prefect(url, "downgrade", "-r", "-1"))
    assert copy and look(Database("prefect", f"sqlite+aiosqlite:///{copy}")).state == BEHIND


def test_prefects_postgresql() -> None:
    with postgresql_server.running() as place:
        url = f"postgresql+asyncpg://{postgresql_server.USER}:{postgresql_server.PASSWORD}@{place}"
        prefect(url, "upgrade")
        assert down_and_up(Database("prefect", url), lambda: prefect(url, "downgrade", "-r", "-1")) is None


def test_mlflows_postgresql(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if said := python_packages.missing():
        pytest.skip(f"no synchronous driver of PostgreSQL, which MLflow's migrations need: {said}")
    folder = str(python_packages.linked(tmp_path / "python"))  # as the team's server has it
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setenv("PYTHONPATH", folder)
    from alembic import command
    from mlflow import MlflowClient
    from mlflow.store.db.utils import _get_alembic_config

    with postgresql_server.running() as place:
        url = f"postgresql+psycopg://{postgresql_server.USER}:{postgresql_server.PASSWORD}@{place}"
        MlflowClient(url, url).search_registered_models()
        down_and_up(Database("mlflow", url), lambda: command.downgrade(_get_alembic_config(url), "-1"))
