"""PostgreSQL as a sink of telemetry, by COPY. A part and the note that it is there are one transaction."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_type_hints

from stepvideo.errors import ArtifactError
from stepvideo.telemetry.schema import TABLES
from stepvideo.telemetry.sinks import address

if TYPE_CHECKING:
    import asyncpg

SENT = "telemetry_part"  # tokens of the parts that are in the tables
ROWS = 1 << 16  # of a COPY
TYPES = {int: "bigint", float: "double precision", str: "text"}


class PostgreSQL:
    """User and password come from STEPVIDEO_POSTGRESQL_USER and STEPVIDEO_POSTGRESQL_PASSWORD.

    Args:
        url: such as postgresql://host:5432/database.

    Raises:
        ConfigError: no such URL, or one with a password in it.
    """

    name = "postgresql"

    def __init__(self, url: str, timeout_s: int = 60) -> None:
        found = address(self.name, url, ("postgresql", "postgres"), "postgresql://host:5432/database")
        self.host, self.port, self.database = found.hostname, found.port or 5432, found.path.strip("/") or "postgres"
        self.timeout_s = timeout_s

    def prepare(self) -> None:
        async def make(connection: asyncpg.Connection) -> None:
            await connection.execute(f"CREATE TABLE IF NOT EXISTS {SENT} (token text PRIMARY KEY)")
            for table, record in TABLES.items():
                types = get_type_hints(record)
                columns = ", ".join(f"{name} {TYPES[types[name]]} NOT NULL" for name in record._fields)
                await connection.execute(f"CREATE TABLE IF NOT EXISTS {table} ({columns})")
                await connection.execute(f"CREATE INDEX IF NOT EXISTS {table}_step ON {table} (run, stage, step, rank)")

        self._do(make)

    def send(self, table: str, part: Path, token: str) -> None:
        async def copy(connection: asyncpg.Connection) -> None:
            import pyarrow.parquet as pq

            noted = f"INSERT INTO {SENT} VALUES ($1) ON CONFLICT DO NOTHING RETURNING token"
            async with connection.transaction():
                if await connection.fetchval(noted, token) is None:
                    return
                for batch in pq.ParquetFile(part).iter_batches(ROWS):
                    rows = zip(*(column.to_pylist() for column in batch.columns), strict=True)
                    await connection.copy_records_to_table(table, records=rows, columns=batch.schema.names)

        self._do(copy)

    def _do(self, work: Callable[[asyncpg.Connection], Awaitable[None]]) -> None:
        """Raises ArtifactError: there is no driver, nobody answers, or the database refuses."""
        try:
            import asyncpg
        except ImportError as e:
            raise ArtifactError("PostgreSQL needs the package asyncpg: pip install stepvideo[cluster]") from e

        async def connected() -> None:
            connection = await asyncpg.connect(
                host=self.host,
                port=self.port,
                database=self.database,
                user=os.environ.get("STEPVIDEO_POSTGRESQL_USER"),
                password=os.environ.get("STEPVIDEO_POSTGRESQL_PASSWORD"),
                timeout=self.timeout_s,
            )
            try:
                await work(connection)
            finally:
                await connection.close()

        failures: tuple[Any, ...] = (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError)
        try:
            asyncio.run(connected())
        except failures as e:
            where = f"{self.host}:{self.port}/{self.database}"
            raise ArtifactError(f"PostgreSQL at {where}: {e or type(e).__name__}; records wait as Parquet") from e
