"""The databases of MLflow and Prefect: which revision each has, and the way to the one that is installed here.

Both are migrated by Alembic. SQLite commits in the middle of a migration, so a copy is made before, and put back if it
fails; PostgreSQL undoes a failed migration by itself, and its backup (`pg_dump`) is its owner's.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import re
import sqlite3
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from stepvideo.errors import ArtifactError
from tasks.keeping_named import without_password

CURRENT, BEHIND, UNKNOWN, EMPTY = "current", "behind", "unknown", "empty"
UPGRADE_TIMEOUT_S = 3600.0


@dataclass(frozen=True)
class Database:
    """MLflow's or Prefect's. url: with its password, never printed."""

    owner: str  # mlflow | prefect
    url: str

    @property
    def file(self) -> Path | None:
        """Of an SQLite database."""
        return Path(self.url.split("///", 1)[1]) if self.url.startswith("sqlite") else None

    @property
    def shown(self) -> str:
        return str(self.file or without_password(self.url))


@dataclass(frozen=True)
class Found:
    """What a database is: its state, its revision, and the one that is installed here."""

    database: Database
    state: str
    revision: str
    head: str

    @property
    def advice(self) -> str:
        if self.state == UNKNOWN:
            return (
                f"its revision {self.revision or 'is not noted'}{' is unknown here' if self.revision else ''}: it was "
                f"written by a newer {self.database.owner}, or a migration of it was cut off; install that version, or "
                "put a backup back (*.before-*)"
            )
        known = {BEHIND: "stepvideo upgrade --databases --apply", CURRENT: "nothing to do", EMPTY: "it is made on use"}
        return known[self.state]


def look(database: Database) -> Found:
    """Raises ArtifactError where it cannot be read."""
    revisions = _revisions(database)
    head = next(iter(revisions))
    found, tables = _noted(database)
    if not tables:
        return Found(database, EMPTY, "", head)
    if len(found) != 1 or found[0] not in revisions:
        return Found(database, UNKNOWN, ", ".join(found), head)
    return Found(database, CURRENT if found[0] == head else BEHIND, found[0], head)


def _revisions(database: Database) -> dict[str, None]:
    """All revisions that the installed version knows, its newest first."""
    from alembic.config import Config
    from alembic.script import ScriptDirectory

    config = Config()
    if database.owner == "mlflow":
        import mlflow

        config.set_main_option("script_location", str(Path(mlflow.__file__).parent / "store" / "db_migrations"))
    else:
        import prefect

        place = Path(prefect.__file__).parent / "server" / "database" / "_migrations"
        config.set_main_option("script_location", str(place))
        config.set_main_option(
            "version_locations", str(place / "versions" / ("sqlite" if database.file else "postgresql"))
        )
        config.set_main_option("path_separator", "os")
    return {script.revision: None for script in ScriptDirectory.from_config(config).walk_revisions()}


def _noted(database: Database) -> tuple[list[str], int]:
    """(the revisions that a database notes, how many tables it has)."""
    from sqlalchemy.exc import SQLAlchemyError

    if database.file and not database.file.exists():
        raise ArtifactError(f"{database.file} is missing; nothing to upgrade")
    try:
        return asyncio.run(_read(database.url)) if database.file is None else _read_file(database.file)
    except (SQLAlchemyError, sqlite3.Error, OSError, ModuleNotFoundError) as e:
        said = without_password((str(e.__cause__ or e).splitlines() or [type(e).__name__])[0])
        raise ArtifactError(
            f"{database.owner}'s database {database.shown} cannot be read: {said}; "
            "start its server, or put a backup back"
        ) from e


def _read_file(path: Path) -> tuple[list[str], int]:
    with contextlib.closing(sqlite3.connect(f"file:{quote(str(path))}?mode=ro", uri=True)) as db:
        tables = {row[0] for row in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        rows = db.execute("SELECT version_num FROM alembic_version").fetchall() if "alembic_version" in tables else []
        return [row[0] for row in rows], len(tables)


async def _read(url: str) -> tuple[list[str], int]:
    """Of PostgreSQL, by the driver that is installed here, whichever the URL names."""
    from sqlalchemy import inspect, make_url, text
    from sqlalchemy.ext.asyncio import create_async_engine

    engine = create_async_engine(make_url(url).set(drivername="postgresql+asyncpg"))
    try:
        async with engine.connect() as connection:
            tables = await connection.run_sync(lambda c: inspect(c).get_table_names())
            noted = "alembic_version" in tables
            rows = (await connection.execute(text("SELECT version_num FROM alembic_version"))).all() if noted else []
            return [row[0] for row in rows], len(tables)
    finally:
        await engine.dispose()


def upgrade(database: Database) -> Path | None:
    """Bring a database that is behind up; the copy that was made before, of SQLite.

    Raises:
        ArtifactError: it is in use, or its migration failed: then the copy was put back.
    """
    found = look(database)
    if found.state != BEHIND:
        raise ArtifactError(f"{database.owner}'s database {database.shown} is not upgraded: {found.advice}")
    copy = backup(database.file, found.revision) if database.file else None
    try:
        _migrate(database)
        after = look(database)
        if after.state != CURRENT:
            raise ArtifactError(f"it has revision {after.revision} now, not {after.head}")
    except BaseException as e:
        if copy and database.file:
            _put_back(copy, database.file)
        how = f"the copy {copy} was put back" if copy else "PostgreSQL has undone it; see its log"
        said = without_password((str(e).splitlines() or [type(e).__name__])[-1])
        if not isinstance(e, Exception):
            raise
        raise ArtifactError(
            f"the migration of {database.owner}'s database {database.shown} failed: {said}; {how}. Half of a migration "
            "may have been in it before: then put an older backup back (*.before-*), or move it away to begin a new one"
        ) from e
    return copy


def backup(path: Path, revision: str) -> Path:
    """A copy of an SQLite database beside it, made by SQLite itself, so that it is whole.

    Raises:
        ArtifactError: somebody uses it, or the copy cannot be written.
    """
    copy = path.with_name(f"{path.name}.before-{time.strftime('%Y%m%d-%H%M%S')}-{revision[:12]}")
    tmp = copy.with_name(f".{copy.name}.tmp")
    try:
        with contextlib.closing(sqlite3.connect(path, timeout=2)) as source:
            source.execute("BEGIN EXCLUSIVE")  # a server that is at work on it
            source.rollback()
            with contextlib.closing(sqlite3.connect(tmp)) as target:
                source.backup(target)
        os.replace(tmp, copy)
    except (sqlite3.Error, OSError) as e:
        tmp.unlink(missing_ok=True)
        raise ArtifactError(
            f"{path} cannot be copied: {e}; stop its server (make ui, stepvideo team stop) first"
        ) from e
    return copy


def _put_back(copy: Path, path: Path) -> None:
    for leftover in ("-wal", "-shm", "-journal"):
        path.with_name(path.name + leftover).unlink(missing_ok=True)
    tmp = path.with_name(f".{path.name}.back")
    with contextlib.closing(sqlite3.connect(copy)) as source, contextlib.closing(sqlite3.connect(tmp)) as target:
        source.backup(target)
    os.replace(tmp, path)


def _migrate(database: Database) -> None:
    """In a process of its own, to which the URL goes through its environment: arguments can be seen by everybody."""
    if database.owner == "mlflow":
        command = [sys.executable, "-c", "from tasks.migration_databases import migrate_mlflow; migrate_mlflow()"]
        env = {"STEPVIDEO_DATABASE": database.url}
    else:
        command = [sys.executable, "-m", "prefect", "server", "database", "upgrade", "--yes"]
        env = {"PREFECT_API_DATABASE_CONNECTION_URL": database.url, "PREFECT_API_URL": ""}
    root = str(Path(__file__).resolve().parent.parent)
    path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH", "")]))
    done = subprocess.run(
        command,
        env=os.environ | env | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=UPGRADE_TIMEOUT_S,
    )
    if done.returncode:
        said = (done.stderr.strip() or done.stdout.strip() or "no reason given").splitlines()
        named = [line for line in said if re.match(r"[\w.]*(Error|Exception)\b", line)]
        raise ArtifactError((named or said)[-1])


def migrate_mlflow() -> None:
    """What `mlflow db upgrade` does, without the URL on the command line."""
    logging.getLogger("alembic").setLevel(logging.WARNING)
    from mlflow.store.db.utils import _upgrade_db
    from sqlalchemy import create_engine

    engine = create_engine(os.environ["STEPVIDEO_DATABASE"])
    _upgrade_db(engine)
