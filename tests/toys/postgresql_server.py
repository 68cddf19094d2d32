"""A PostgreSQL of the tests' own, from Debian's package."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

USER, PASSWORD = "writer", "secret"


@contextmanager
def running() -> Iterator[str]:
    """`HOST:PORT/DATABASE` of a server with the user above; skips the test where there is none."""
    initdb = shutil.which("initdb")
    if initdb is None:
        pytest.skip("no PostgreSQL on this machine (apt-get install postgresql; initdb must be in PATH)")
    pytest.importorskip("asyncpg")
    as_user = ["runuser", "-u", "postgres", "--"] if os.getuid() == 0 else []  # it refuses to run as root
    folder = Path(tempfile.mkdtemp(prefix="postgresql-"))
    (folder / "password").write_text(PASSWORD)
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    options = f"-c listen_addresses=127.0.0.1 -p {port} -c unix_socket_directories= -c fsync=off"
    make = [initdb, "-D", f"{folder}/data", "-U", USER, "-A", "scram-sha-256", "--no-sync"]
    pg_ctl = str(Path(initdb).resolve().with_name("pg_ctl"))
    control = [*as_user, pg_ctl, "-D", f"{folder}/data", "-w"]
    try:
        if as_user:
            shutil.chown(folder, "postgres")
            shutil.chown(folder / "password", "postgres")
        quiet = {"check": True, "stdout": subprocess.DEVNULL, "cwd": "/"}
        subprocess.run([*as_user, *make, f"--pwfile={folder}/password"], **quiet)
        subprocess.run([*control, "-l", f"{folder}/log", "-o", options, "start"], **quiet)
        try:
            yield f"127.0.0.1:{port}/postgres"
        finally:
            subprocess.run([*control, "-m", "immediate", "stop"], **quiet)
    finally:
        shutil.rmtree(folder)
