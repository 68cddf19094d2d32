"""PostgreSQL: databases for Prefect, MLflow and MLflow's users. It refuses root, who runs it as `postgres`."""

from __future__ import annotations

import asyncio
import os
import pwd
import shutil
import signal
import subprocess
from pathlib import Path
from typing import Any

from stepvideo.errors import ConfigError, StepVideoError
from tasks.team.layout import HOST, USER, Stack, service_environment, write_private
from tasks.team.processes import Part

DATABASES = {"prefect": "prefect", "mlflow": "mlflow", "mlflow_auth": "mlflow"}  # and the role that owns each
SYSTEM_USER = "postgres"
MISSING = "PostgreSQL's server is missing: apt-get install postgresql (as root)"
SETTINGS = """
# by `stepvideo team start`
listen_addresses = '{host}'
port = {port}
unix_socket_directories = ''
max_connections = 200
"""


def part(stack: Stack) -> Part:
    data = stack.folder / "postgresql"
    return Part(
        name="postgresql",
        command=[find("postgres") or "postgres", "-D", str(data)],
        answers=lambda: _answers(stack),
        prepare=lambda: _prepare(stack, data),
        complete=lambda: asyncio.run(_make_databases(stack)),
        stop_with=signal.SIGINT,  # "fast": sessions are ended, the log is closed
        whole=False,
        tries=5,  # the memory of a killed one is held for a moment
        user=SYSTEM_USER if os.getuid() == 0 else None,
        about=f"databases {', '.join(DATABASES)}",
        place=f"{HOST}:{stack.port('postgresql')}",
    )


def missing() -> str:
    """What is not on this machine and how to get it; "" if all is there."""
    if find("postgres") is None:
        return MISSING
    if os.getuid() == 0:
        try:
            pwd.getpwnam(SYSTEM_USER)
        except KeyError:
            return f"root cannot run PostgreSQL and there is no user {SYSTEM_USER}: apt-get install postgresql"
    return ""


async def ask(stack: Stack, database: str, query: str, user: str = USER) -> list[Any]:
    """Rows of a query. Raises what asyncpg does, or OSError."""
    connection = await _connect(stack, database, user)
    try:
        return await connection.fetch(query)
    finally:
        await connection.close()


def find(name: str) -> str | None:
    """Debian keeps the server's programs out of PATH, in a folder a version."""
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda p: p.parent.name)
    return shutil.which(name) or next((str(f / name) for f in reversed(folders) if (f / name).exists()), None)


def program(name: str) -> str:
    """As `find`. Raises ConfigError with what to install."""
    found = find(name)
    if found is None:
        raise ConfigError(MISSING)
    return found


def _prepare(stack: Stack, data: Path) -> None:
    if (data / "PG_VERSION").exists() and (data / "team.ok").exists():
        return
    root = os.getuid() == 0
    if root:
        stack.folder.chmod(0o711)  # `postgres` passes through; what is in it stays closed
    shutil.rmtree(data, ignore_errors=True)  # of a start that was interrupted before anything was in it
    data.mkdir(mode=0o700)
    as_user: dict[str, Any] = {}
    if root:
        shutil.chown(data, SYSTEM_USER, SYSTEM_USER)
        as_user = {"user": SYSTEM_USER, "group": SYSTEM_USER, "extra_groups": []}
        if subprocess.run(["test", "-w", str(data)], cwd="/", **as_user).returncode:
            raise ConfigError(
                f"the user {SYSTEM_USER}, as whom root runs PostgreSQL, cannot reach {data}: let others pass "
                f"the folders above it (chmod o+x), or give another --folder"
            )
    # the password comes through a pipe: no argument, no file that initdb's user could not read
    reading, writing = os.pipe()
    os.write(writing, stack.secrets["postgresql"].encode() + b"\n")
    os.close(writing)
    command = [program("initdb"), "-D", str(data), "-U", USER, "-A", "scram-sha-256", "-E", "UTF8"]
    command += ["--locale=C.UTF-8", f"--pwfile=/dev/fd/{reading}"]
    if root:
        os.fchown(reading, pwd.getpwnam(SYSTEM_USER).pw_uid, -1)  # /dev/fd opens it anew
    try:
        said = subprocess.run(
            command, cwd="/", env=service_environment(), pass_fds=[reading], capture_output=True, text=True, **as_user
        )
    finally:
        os.close(reading)
    if said.returncode:
        raise StepVideoError(f"cannot make a database cluster in {data}: {said.stderr.strip()[-500:]}")
    with (data / "postgresql.conf").open("a") as file:
        file.write(SETTINGS.format(host=HOST, port=stack.port("postgresql")))
    (data / "team.ok").touch()


def write_pgpass(stack: Stack) -> None:
    """PostgreSQL's own way to keep passwords out of URLs and arguments."""
    users = (USER, *sorted(set(DATABASES.values())))
    place = f"{HOST}:{stack.port('postgresql')}:*"
    write_private(stack.folder / "pgpass", "".join(f"{place}:{u}:{stack.secrets['postgresql']}\n" for u in users))


async def _connect(stack: Stack, database: str, user: str = USER) -> Any:
    import asyncpg

    port, passfile = stack.port("postgresql"), stack.folder / "pgpass"
    return await asyncpg.connect(
        host=HOST, port=port, user=user, database=database, passfile=str(passfile), timeout=5, ssl=False
    )


def _answers(stack: Stack) -> bool:
    try:
        return bool(asyncio.run(ask(stack, "postgres", "select 1")))
    except Exception:  # not yet, whatever it says; at the end the log tells
        return False


async def _make_databases(stack: Stack) -> None:
    connection = await _connect(stack, "postgres")
    try:
        await connection.execute("set log_min_error_statement = panic")  # a statement has a password
        for role in sorted(set(DATABASES.values())):
            if not await connection.fetchval("select 1 from pg_roles where rolname = $1", role):
                await connection.execute(f"create role {role} login password '{stack.secrets['postgresql']}'")
        for name, owner in DATABASES.items():
            if not await connection.fetchval("select 1 from pg_database where datname = $1", name):
                await connection.execute(f"create database {name} owner {owner}")
                await connection.execute(f"revoke all on database {name} from public")
    finally:
        await connection.close()
