"""Prefect's database and PostgreSQL's, down by their own migrations and up by ours."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import postgresql_server
import pytest

from tasks.migration_databases import BEHIND, CURRENT, Database, look, upgrade

pytestmark = pytest.mark.soak


def prefect(url: str, *args: str) -> None:
    env = os.environ | {"PREFECT_API_DATABASE_CONNECTION_URL": url, "PREFECT_API_URL": ""}
    command = [sys.executable, "-m", "prefect", "server", "database", *args, "--yes"]
    subprocess.run(command, env=env, check=True, capture_output=True, timeout=600)


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


def test_mlflows_postgresql() -> None:
    driver = next((d for d in ("psycopg", "psycopg2", "pg8000") if importlib.util.find_spec(d)), None)
    if driver is None:
        pytest.skip("no synchronous driver of PostgreSQL, which MLflow's migrations need (psycopg2)")
    from alembic import command
    from mlflow import MlflowClient
    from mlflow.store.db.utils import _get_alembic_config

    with postgresql_server.running() as place:
        url = f"postgresql+{driver}://{postgresql_server.USER}:{postgresql_server.PASSWORD}@{place}"
        MlflowClient(url, url).search_registered_models()
        down_and_up(Database("mlflow", url), lambda: command.downgrade(_get_alembic_config(url), "-1"))
