"""ClickHouse as a sink of telemetry, by its HTTP interface."""

from __future__ import annotations

import os
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from typing import get_type_hints

from stepvideo.errors import ArtifactError
from stepvideo.telemetry.schema import TABLES
from stepvideo.telemetry.sinks import address

TIME = {"span": "start_ns", "counter": "time_ns", "sample": "time_ns"}
KNOWN_TOKENS = 10_000  # parts that the database remembers


class ClickHouse:
    """ClickHouse by its HTTP interface. User and password come from STEPVIDEO_CLICKHOUSE_USER and …_PASSWORD.

    Args:
        url: such as http://host:8123/database.

    Raises:
        ConfigError: no such URL, or one with a password in it.
    """

    name = "clickhouse"

    def __init__(self, url: str, timeout_s: float = 60.0) -> None:
        found = address(self.name, url, ("http", "https"), "http://host:8123/database")
        self.url = f"{found.scheme}://{found.netloc}/"
        self.database = found.path.strip("/") or "default"
        self.timeout_s = timeout_s

    def prepare(self) -> None:
        for table in TABLES:
            self._post(create_table(table))

    def send(self, table: str, part: Path, token: str) -> None:
        self._post(f"INSERT INTO {table} FORMAT Parquet", part, insert_deduplication_token=token)

    def _post(self, query: str, part: Path | None = None, **settings: str) -> None:
        asked = urllib.parse.urlencode({"database": self.database, "query": query, **settings})
        headers = {
            "X-ClickHouse-User": os.environ.get("STEPVIDEO_CLICKHOUSE_USER", "default"),
            "X-ClickHouse-Key": os.environ.get("STEPVIDEO_CLICKHOUSE_PASSWORD", ""),
            "Content-Type": "application/octet-stream",
        }
        data = part.read_bytes() if part else b""
        request = urllib.request.Request(f"{self.url}?{asked}", data, headers, method="POST")
        try:
            with urllib.request.urlopen(request, timeout=self.timeout_s) as answer:
                answer.read()
        except urllib.error.HTTPError as e:
            said = e.read(500).decode(errors="replace").strip()
            raise ArtifactError(f"ClickHouse at {self.url} refused {query[:40]!r}: {e.code} {said}") from e
        except OSError as e:
            raise ArtifactError(f"cannot reach ClickHouse at {self.url}: {e}; its records wait as Parquet") from e


def create_table(table: str) -> str:
    """The statement that makes `table` in ClickHouse, as one that drops what comes twice under a token."""
    sql = {int: "Int64", float: "Float64", str: "LowCardinality(String)"}
    types = {name: sql[kind] for name, kind in get_type_hints(TABLES[table]).items()} | {"sample_id": "String"}
    columns = ", ".join(f"{name} {types[name]}" for name in TABLES[table]._fields)
    return (
        f"CREATE TABLE IF NOT EXISTS {table} ({columns}) ENGINE = MergeTree "
        f"PARTITION BY toDate(fromUnixTimestamp64Nano({TIME[table]})) ORDER BY (run, stage, step, rank) "
        f"SETTINGS non_replicated_deduplication_window = {KNOWN_TOKENS}"
    )
