"""MLflow's database of an older revision, a newer one, half-migrated, in use: upgraded, or as it was with the fix."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sqlite3
import subprocess
import traceback
from pathlib import Path
from typing import Any

import pytest

from stepvideo import cli
from stepvideo.artifact import Store
from stepvideo.errors import ArtifactError
from tasks.migration_databases import BEHIND, CURRENT, EMPTY, UNKNOWN, Database, look, migrate_mlflow, upgrade
from tasks.record import recorded


def lowered(path: Path) -> None:
    """One revision down, by MLflow's own migrations."""
    from alembic import command
    from mlflow.store.db.utils import _get_alembic_config

    command.downgrade(_get_alembic_config(f"sqlite:///{path}"), "-1")


def stamped(path: Path, revision: str) -> None:
    with contextlib.closing(sqlite3.connect(path)) as db, db:
        db.execute("UPDATE alembic_version SET version_num = ?", (revision,))


@pytest.fixture(scope="module")
def old_mlflow(tmp_path_factory: pytest.TempPathFactory, new_mlflow: Path) -> Path:
    path = tmp_path_factory.mktemp("old") / "mlflow.db"
    shutil.copy(new_mlflow, path)
    lowered(path)
    return path


@pytest.fixture
def database(tmp_path: Path, new_mlflow: Path) -> Database:
    shutil.copy(new_mlflow, tmp_path / "mlflow.db")
    return Database("mlflow", f"sqlite:///{tmp_path / 'mlflow.db'}")


def test_an_old_one_is_copied_and_upgraded(database: Database, old_mlflow: Path, tmp_path: Path, capsys) -> None:
    assert look(database).state == CURRENT
    assert database.file
    shutil.copy(old_mlflow, database.file)
    old = look(database)
    assert old.state == BEHIND and old.revision != old.head
    args = ["upgrade", "--databases", "--url", f"mlflow={database.url}", "--store", str(tmp_path / "store")]
    assert cli.main(args) == 1 and "upgrade --databases --apply" in capsys.readouterr().out
    assert look(database) == old  # a dry run
    assert cli.main([*args, "--apply", "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert look(database).state == CURRENT and row["state"] == "current"
    assert look(Database("mlflow", f"sqlite:///{row['backup']}")).revision == old.revision
    from mlflow import MlflowClient

    assert MlflowClient(database.url, database.url).search_experiments()  # MLflow takes it
    with pytest.raises(ArtifactError, match="nothing to do"):
        upgrade(database)


@pytest.fixture
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Migrations here: a process of its own, as the first test has it, imports MLflow for seconds."""

    def run(command: list[str], env: dict[str, str], **_: Any) -> subprocess.CompletedProcess[str]:
        monkeypatch.setenv("STEPVIDEO_DATABASE", env["STEPVIDEO_DATABASE"])
        try:
            migrate_mlflow()
        except Exception:
            return subprocess.CompletedProcess(command, 1, "", traceback.format_exc())
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr("tasks.migration_databases.subprocess.run", run)


def test_a_half_migrated_one_is_as_it_was_and_says_the_fix(
    database: Database, old_mlflow: Path, in_this_process: None
) -> None:
    """Tables of the newest revision, and the mark of the one before: a migration that was cut off."""
    assert database.file
    shutil.copy(old_mlflow, database.file)
    before = look(database).revision
    with contextlib.closing(sqlite3.connect(database.file)) as db, db:
        db.execute("CREATE TABLE scheduler_leases (lease_key VARCHAR(255))")  # as the newest begins
    with pytest.raises(ArtifactError, match=r"failed: .*already exists.*was put back.*older backup"):
        upgrade(database)
    assert look(database).revision == before
    with contextlib.closing(sqlite3.connect(database.file)) as db:
        assert "job_locks" not in {row[0] for row in db.execute("SELECT name FROM sqlite_master")}
    stamped(database.file, "f00df00df00d")
    found = look(database)
    assert found.state == UNKNOWN and "newer mlflow" in found.advice and "*.before-*" in found.advice
    with pytest.raises(ArtifactError, match="unknown here"):
        upgrade(database)


def test_one_in_use_broken_absent_or_empty(database: Database, tmp_path: Path) -> None:
    assert database.file
    stamped(database.file, "75868b020152")
    with contextlib.closing(sqlite3.connect(database.file, isolation_level=None)) as server:
        server.execute("BEGIN IMMEDIATE")
        with pytest.raises(ArtifactError, match="stop its server"):
            upgrade(database)
        server.execute("ROLLBACK")
    assert [p.name for p in tmp_path.iterdir() if "before" in p.name] == []
    (tmp_path / "junk.db").write_bytes(b"no database" * 100)
    with pytest.raises(ArtifactError, match="cannot be read"):
        look(Database("mlflow", f"sqlite:///{tmp_path / 'junk.db'}"))
    with pytest.raises(ArtifactError, match="is missing"):
        look(Database("mlflow", f"sqlite:///{tmp_path / 'absent.db'}"))
    assert not (tmp_path / "absent.db").exists()
    sqlite3.connect(tmp_path / "empty.db").close()
    (tmp_path / "empty.db").touch()
    assert look(Database("mlflow", f"sqlite:///{tmp_path / 'empty.db'}")).state == EMPTY


def test_a_live_run_stops_it_and_passwords_are_not_shown(database: Database, tmp_path: Path, capsys) -> None:
    store = Store(tmp_path / "store")
    config = {"tracking": {"mlflow": True, "mlflow_uri": database.url, "prefect": False}, "work": str(tmp_path)}
    with recorded(store, config=config, until=None, nodes=[]):
        assert cli.main(["upgrade", "--databases", "--apply", "--store", str(store.root)]) == 2
        assert "is at work" in capsys.readouterr().err
    assert cli.main(["upgrade", "--databases", "--json", "--store", str(store.root)]) == 0
    assert json.loads(capsys.readouterr().out)[0]["state"] == CURRENT
    os.environ["THE_URL"] = "postgresql://writer:hunter2@127.0.0.1:9/none"
    assert cli.main(["upgrade", "--databases", "--url", "mlflow=$THE_URL"]) == 2
    said = capsys.readouterr()
    assert "***@127.0.0.1" in said.err and "hunter2" not in said.err + said.out
    assert cli.main(["upgrade", "--databases", "--url", "dvc=x"]) == 2
    assert "give mlflow=URL or prefect=URL" in capsys.readouterr().err
