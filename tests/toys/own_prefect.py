"""A Prefect server as a driver has one of its own, for drivers in processes and in this process alike."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tasks.prefect_server import temporary_server


@contextmanager
def own_prefect(home: Path, database: Path) -> Iterator[None]:
    """One that begins with a copy of `database` in `home`, whatever this process asked of Prefect before.

    Prefect's threads have no context of whoever started them: they take the settings of the process, made when it was
    imported, and would start servers of Prefect's own that nobody ends.
    """
    home.mkdir(parents=True)
    shutil.copy(database, home / "prefect.db")
    with _environment(PREFECT_HOME=str(home)), temporary_server(home / "server.log") as wait_until_up:
        from prefect import context
        from prefect.events.worker import EventsWorker
        from prefect.logging.handlers import APILogWorker

        context.refresh_global_settings_context()
        wait_until_up()
        try:
            yield
        finally:
            EventsWorker.drain_all()
            APILogWorker.drain_all()
            with _environment(PREFECT_API_URL=None, PREFECT_HOME=None):
                context.refresh_global_settings_context()


@contextmanager
def _environment(**values: str | None) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    _set(values)
    try:
        yield
    finally:
        _set(before)


def _set(values: dict[str, str | None]) -> None:
    for name, value in values.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
