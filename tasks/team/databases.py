"""Whether the tables of MLflow and Prefect are those that the installed versions expect, and how they become so.

Revisions are read from the packages' migration files as text: importing them takes seconds.
"""

from __future__ import annotations

import asyncio
import importlib.util
import re
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from stepvideo.errors import StepVideoError
from tasks.team import postgresql, python_packages
from tasks.team.layout import HOST, Stack, service_environment

UPGRADE_S = 1800.0


@dataclass(frozen=True)
class Schema:
    """Where a database keeps its revision, and where the package that uses it has its migrations."""

    database: str
    table: str
    package: str
    folder: str


SCHEMAS = (
    Schema("mlflow", "alembic_version", "mlflow", "store/db_migrations/versions"),
    Schema("mlflow_auth", "alembic_version_auth", "mlflow", "server/auth/db/migrations/versions"),
    Schema("prefect", "alembic_version", "prefect", "server/database/_migrations/versions/postgresql"),
)


def newest(schema: Schema) -> str:
    """The revision that the installed package expects: the one that no other follows."""
    spec = importlib.util.find_spec(schema.package)
    assert spec and spec.submodule_search_locations
    found, followed = set(), set()
    for path in (Path(next(iter(spec.submodule_search_locations))) / schema.folder).glob("*.py"):
        text = path.read_text(encoding="utf-8")
        found |= set(re.findall(r"^revision(?:: \w+)? = ['\"](\w+)['\"]", text, re.MULTILINE))
        if before := re.search(r"^down_revision\b[^=]*= (.+)$", text, re.MULTILINE):
            followed |= set(re.findall(r"['\"](\w+)['\"]", before[1]))
    heads = found - followed
    assert len(heads) == 1, f"{schema}: heads {heads}"
    return heads.pop()


def revision(stack: Stack, schema: Schema) -> str:
    """What a database says it is at; "" if it has no tables yet. Raises what asyncpg does, or OSError."""
    from asyncpg import UndefinedTableError

    query = f"select version_num from {schema.table}"
    try:
        rows = asyncio.run(postgresql.ask(stack, schema.database, query))
    except UndefinedTableError:
        return ""
    return rows[0]["version_num"] if rows else ""


def behind(stack: Stack) -> list[str]:
    """Names of the databases that are not at the newest revision; those without tables are made by their servers."""
    return [s.database for s in SCHEMAS if (at := revision(stack, s)) and at != newest(s)]


def backup(stack: Stack, database: str) -> Path:
    """A dump of a database, for `pg_restore`. Raises StepVideoError."""
    folder = stack.folder / "backups"
    folder.mkdir(mode=0o700, exist_ok=True)
    path = folder / f"{database}-{time.strftime('%Y%m%d-%H%M%S')}.dump"
    where = ["-h", HOST, "-p", str(stack.port("postgresql")), "-U", "team", "--no-password"]
    command = [postgresql.program("pg_dump"), *where, "-F", "c", "-f", str(path), database]
    _run(command, service_environment(**stack.passwords))
    return path


def upgrade(stack: Stack, database: str) -> None:
    """Bring a database to the newest revision; its server must be stopped. Raises StepVideoError, with the end of what
    the migration said; it is one transaction a step, and the next call goes on.
    """
    python = str(python_packages.linked(stack.folder / "python"))
    environment = service_environment(**stack.passwords, PYTHONPATH=python, PREFECT_HOME=str(stack.folder / "prefect"))
    url = stack.database(database, "asyncpg" if database == "prefect" else "psycopg")  # without its password
    commands = {
        "mlflow": ["mlflow", "db", "upgrade", url],
        "mlflow_auth": ["mlflow.server.auth", "db", "upgrade", "--url", url],
        "prefect": ["prefect", "server", "database", "upgrade", "--yes"],
    }
    environment["PREFECT_SERVER_DATABASE_CONNECTION_URL"] = stack.database("prefect", "asyncpg")
    _run([sys.executable, "-m", *commands[database]], environment)


def _run(command: list[str], environment: dict[str, str]) -> None:
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=UPGRADE_S, stdin=subprocess.DEVNULL
    )
    if done.returncode:
        said = "\n".join((done.stdout + done.stderr).strip().splitlines()[-5:])
        raise StepVideoError(f"`{' '.join(command[:6])} …` failed; nothing else was changed:\n{said}")
