"""Where a study's assignments and votes are kept: SQLite in the study's folder, or PostgreSQL by URL.

Nothing that an annotator did is ever changed or removed: votes, skips and undone ones are rows of `events`.
"""

from __future__ import annotations

import asyncio
import re
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import (
    Column,
    Connection,
    Engine,
    Float,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
    create_engine,
    event,
    insert,
    select,
    update,
)
from sqlalchemy.engine import make_url
from sqlalchemy.exc import IntegrityError, OperationalError, ProgrammingError, SQLAlchemyError

from stepvideo.errors import StepVideoError
from stepvideo.preference.study import DATABASE

T = TypeVar("T")
URL = re.compile(r"//[^@/]*@")  # user and password
BUSY_S = 30.0  # that a writer waits for another

tables = MetaData()
meta = Table("meta", tables, Column("name", String, primary_key=True), Column("value", Text, nullable=False))
people = Table(
    "people",
    tables,
    Column("name", String, primary_key=True),
    Column("number", Integer, nullable=False, unique=True),
    Column("role", String, nullable=False),  # annotator or admin
    Column("token_sha256", String, nullable=False, unique=True),
    Column("expires", Float, nullable=False),  # these times: seconds since 1970
    Column("revoked", Float),
)
assignments = Table(
    "assignments",
    tables,
    Column("assignment", String, primary_key=True),
    Column("annotator", String, nullable=False),
    Column("number", Integer, nullable=False),  # from 1, of this annotator
    Column("item", String, nullable=False),
    Column("role", String, nullable=False),
    Column("repeat_of", String),  # an assignment
    Column("left", String, nullable=False),  # which side is shown left: a or b
    Column("media_left", String, nullable=False, unique=True),
    Column("media_right", String, unique=True),
    Column("fetched_left", Float),
    Column("fetched_right", Float),
    Column("state", String, nullable=False),  # open, ahead, voted, skipped, released
    Column("lease_until", Float, nullable=False),
    UniqueConstraint("annotator", "number"),
)
events = Table(
    "events",
    tables,
    Column("seq", Integer, primary_key=True, autoincrement=True),
    Column("annotator", String, nullable=False),
    Column("key", String, nullable=False),  # chosen by the page: the same request sent twice is one
    Column("assignment", String, nullable=False, index=True),
    Column("what", String, nullable=False),  # vote, skip, undo
    Column("said", Text, nullable=False),  # JSON: the request as it was checked
    Column("time", Float, nullable=False),
    UniqueConstraint("annotator", "key"),
)


class Store:
    """One database of one study.

    Args:
        owner: what tells this study from others; a database belongs to one.
        url: `postgresql://USER:PASSWORD@HOST/DATABASE`, or "" for `votes.db` in the folder.

    Raises:
        StepVideoError: it cannot be opened, or is another study's.
    """

    def __init__(self, folder: Path, owner: str, url: str = "") -> None:
        self._bridge: _Bridge | None = None
        place = URL.sub("//", url) if url else str(folder / DATABASE)
        self._writing = threading.Lock()  # threads of one process queue here, not by polling the database's lock
        try:
            if url:
                self._bridge = _Bridge(url)
            else:
                self._engine = _sqlite(folder / DATABASE)
            self._prepare(owner)
        except (SQLAlchemyError, OSError, ImportError) as e:
            raise StepVideoError(f"the votes' database {place} cannot be opened: {str(e).splitlines()[0]}") from e
        if self.read(lambda c: c.execute(select(meta.c.value).where(meta.c.name == "lock")).scalar_one()) != owner:
            raise StepVideoError(f"the votes' database {place} is another study's; give each its own")

    def write(self, work: Callable[[Connection], T]) -> T:
        """`work` in one transaction, alone: no other writer runs meanwhile. On the disk when this returns."""

        def alone(connection: Connection) -> T:
            # The first statement takes the lock that all writers share, in both databases.
            connection.execute(update(meta).where(meta.c.name == "lock").values(value=meta.c.value))
            return work(connection)

        with self._writing:
            return self.read(alone)

    def read(self, work: Callable[[Connection], T]) -> T:
        """`work` in one transaction, which sees one state."""
        if self._bridge:
            return self._bridge.run(work)
        with self._engine.begin() as connection:
            return work(connection)

    def _prepare(self, owner: str) -> None:
        """Tables, and the row that is the lock; another process may make them at the same moment."""

        def make(connection: Connection) -> None:
            tables.create_all(connection)
            if connection.execute(select(meta.c.value).where(meta.c.name == "lock")).first() is None:
                connection.execute(insert(meta).values(name="lock", value=owner))

        try:
            self.read(make)
        except (OperationalError, IntegrityError, ProgrammingError):
            self.read(make)

    def close(self) -> None:
        self._bridge.close() if self._bridge else self._engine.dispose()


def _sqlite(path: Path) -> Engine:
    engine = create_engine(f"sqlite:///{path}", connect_args={"timeout": BUSY_S})

    @event.listens_for(engine, "connect")
    def durable(connection: Any, _: Any) -> None:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")  # what was acknowledged survives a power cut, not only kill -9

    return engine


class _Bridge:
    """PostgreSQL by asyncpg, from any thread: its connections live in one event loop, which has a thread of its own."""

    def __init__(self, url: str) -> None:
        from sqlalchemy.ext.asyncio import create_async_engine

        self._engine = create_async_engine(make_url(url).set(drivername="postgresql+asyncpg"), pool_pre_ping=True)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()

    def run(self, work: Callable[[Connection], T]) -> T:
        async def call() -> T:
            async with self._engine.begin() as connection:
                return await connection.run_sync(work)

        return asyncio.run_coroutine_threadsafe(call(), self._loop).result()

    def close(self) -> None:
        if self._loop.is_closed():
            return
        asyncio.run_coroutine_threadsafe(self._engine.dispose(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
