"""Databases that the consumer fills: every part once, whenever who is killed or away."""

from __future__ import annotations

import asyncio
import threading
import urllib.parse
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import postgresql_server
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from telemetry_segments import Killed, expected, fill, stored

from stepvideo.errors import ArtifactError, ConfigError
from stepvideo.telemetry import compaction, sinks
from stepvideo.telemetry.clickhouse import ClickHouse
from stepvideo.telemetry.consumer import consume
from stepvideo.telemetry.postgresql import PostgreSQL
from stepvideo.telemetry.schema import TABLES
from stepvideo.telemetry.ship import alone, ship


class FakeClickHouse:
    """As much of ClickHouse's HTTP interface as the consumer uses: it refuses what that would refuse."""

    def __init__(self) -> None:
        self.tables: dict[str, list[dict]] = {}
        self.tokens: set[tuple[str, str]] = set()
        self.refuse = 0  # requests from now on
        self.dropped = 0
        fake = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                status, said = fake.answer(self.path, dict(self.headers), body)
                self.send_response(status)
                self.end_headers()
                self.wfile.write(said.encode())

            def log_message(self, *args: object) -> None: ...

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/training"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def answer(self, path: str, headers: dict[str, str], body: bytes) -> tuple[int, str]:
        if self.refuse:
            self.refuse -= 1
            return 500, "Code: 252. DB::Exception: Too many parts"
        if (headers.get("X-Clickhouse-User"), headers.get("X-Clickhouse-Key")) != ("writer", "secret"):
            return 403, "Code: 516. DB::Exception: Authentication failed"
        asked = dict(urllib.parse.parse_qsl(urllib.parse.urlsplit(path).query))
        words = asked["query"].split()
        if asked["database"] != "training":
            return 404, "Code: 81. DB::Exception: Database does not exist"
        if asked["query"].startswith("CREATE TABLE IF NOT EXISTS"):
            if "non_replicated_deduplication_window" not in asked["query"]:
                return 400, "tokens would be forgotten"
            self.tables.setdefault(words[5], [])
            return 200, ""
        if words[:2] != ["INSERT", "INTO"] or words[3:] != ["FORMAT", "Parquet"] or words[2] not in self.tables:
            return 400, "Code: 62. DB::Exception: Syntax error"
        key = (words[2], asked["insert_deduplication_token"])
        if key in self.tokens:
            self.dropped += 1
            return 200, ""
        self.tokens.add(key)
        self.tables[words[2]] += pq.read_table(pa.BufferReader(body)).to_pylist()
        return 200, ""


@pytest.fixture
def clickhouse(monkeypatch):
    monkeypatch.setenv("STEPVIDEO_CLICKHOUSE_USER", "writer")
    monkeypatch.setenv("STEPVIDEO_CLICKHOUSE_PASSWORD", "secret")
    fake = FakeClickHouse()
    yield fake
    fake.server.shutdown()


def in_database(fake: FakeClickHouse, table: str = "counter") -> list[tuple]:
    return sorted((r["run"], r["rank"], r["step"]) for r in fake.tables[table])


def test_clickhouse_gets_every_part_once(tmp_path, clickhouse):
    sink = ClickHouse(clickhouse.url)
    fill(tmp_path, 0, 0, 6)
    assert consume(tmp_path, [sink]) == 12
    assert consume(tmp_path, [sink]) == 0
    fill(tmp_path, 0, 6, 6)
    consume(tmp_path, [sink])
    assert set(clickhouse.tables) == set(TABLES) and clickhouse.dropped == 0
    assert in_database(clickhouse) == in_database(clickhouse, "sample") == stored(tmp_path) == expected((0, 0, 12))


def test_clickhouse_that_is_away_gets_it_later_and_kills_double_nothing(tmp_path, clickhouse, capsys):
    sink = ClickHouse(clickhouse.url)
    fill(tmp_path, 0, 0, 3)
    clickhouse.refuse = 1
    with pytest.raises(ArtifactError, match="500.*Too many parts"):
        consume(tmp_path, [sink])
    assert stored(tmp_path) == expected((0, 0, 3)), "Parquet does not wait for it"
    rounds = iter([False, True])
    clickhouse.refuse = 1
    fill(tmp_path, 0, 3, 3)
    assert consume(tmp_path, [sink], lambda: next(rounds)) == 6
    assert in_database(clickhouse) == expected((0, 0, 6)) and "Too many parts" in capsys.readouterr().err

    fill(tmp_path, 0, 6, 3)

    def die(point: str) -> None:
        if point == "sent":
            raise Killed

    with pytest.raises(Killed):
        consume(tmp_path, [sink], hook=die)
    consume(tmp_path, [sink])
    assert clickhouse.dropped == 1 and in_database(clickhouse) == expected((0, 0, 9))


def test_what_a_database_has_not_got_is_not_merged(tmp_path, clickhouse):
    sink = ClickHouse(clickhouse.url)
    fill(tmp_path, 0, 0, 3)
    consume(tmp_path, [sink])
    for n in range(1, 5):
        fill(tmp_path, 0, 3 * n, 3)
        ship(tmp_path)
    with alone(tmp_path):
        assert sinks.until(tmp_path) == 1 and compaction.compact(tmp_path, few=1, until=sinks.until(tmp_path)) == 0
        sinks.feed(tmp_path, sink)
        assert compaction.compact(tmp_path, few=1, until=sinks.until(tmp_path)) == 2
    assert in_database(clickhouse) == stored(tmp_path) == expected((0, 0, 15))


def test_clickhouse_says_what_is_wrong(tmp_path, clickhouse, monkeypatch):
    with pytest.raises(ConfigError, match="no address"):
        ClickHouse("host:8123")
    with pytest.raises(ConfigError, match="STEPVIDEO_CLICKHOUSE_PASSWORD") as told:
        ClickHouse("http://me:hidden@host:8123/db")
    assert "hidden" not in str(told.value)
    monkeypatch.setenv("STEPVIDEO_CLICKHOUSE_PASSWORD", "wrong")
    with pytest.raises(ArtifactError, match="403.*Authentication failed") as told:
        ClickHouse(clickhouse.url).prepare()
    assert "wrong" not in str(told.value)
    with pytest.raises(ArtifactError, match="cannot reach ClickHouse"):
        ClickHouse("http://127.0.0.1:1/db").prepare()


# --------------------------------------------------------------------------------------------------------- PostgreSQL


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """The address of a PostgreSQL of our own."""
    with postgresql_server.running() as place:
        yield f"postgresql://{place}"


@pytest.fixture
def postgresql(server, monkeypatch) -> PostgreSQL:
    monkeypatch.setenv("STEPVIDEO_POSTGRESQL_USER", "writer")
    monkeypatch.setenv("STEPVIDEO_POSTGRESQL_PASSWORD", "secret")
    _ask(server, f"DROP TABLE IF EXISTS {', '.join([*TABLES, 'telemetry_part'])}")
    return PostgreSQL(server)


def _ask(address: str, query: str) -> list[tuple]:
    import asyncpg

    async def ask() -> list[tuple]:
        connection = await asyncpg.connect(address, user="writer", password="secret")
        try:
            return [tuple(row) for row in await connection.fetch(query)]
        finally:
            await connection.close()

    return asyncio.run(ask())


def test_postgresql_gets_every_part_once_whenever_the_consumer_is_killed(tmp_path, postgresql, server):
    fill(tmp_path, 0, 0, 6)
    assert consume(tmp_path, [postgresql]) == 12

    def die(point: str) -> None:
        if point == "sent":
            raise Killed

    fill(tmp_path, 0, 6, 3)
    with pytest.raises(Killed):
        consume(tmp_path, [postgresql], hook=die)
    consume(tmp_path, [postgresql])
    for table in ("counter", "sample"):
        assert sorted(_ask(server, f"SELECT run, rank, step FROM {table}")) == expected((0, 0, 9))
    (row,) = _ask(server, "SELECT sample_id, source, frames, height, width, tokens, kind FROM sample WHERE step = 7")
    assert row == ("clip-0-7", "raw", 17, 32, 48, 6, "video")


def test_postgresql_says_what_is_wrong(postgresql, server, monkeypatch):
    with pytest.raises(ConfigError, match="no address"):
        PostgreSQL("host:5432")
    with pytest.raises(ConfigError, match="STEPVIDEO_POSTGRESQL_PASSWORD"):
        PostgreSQL("postgresql://me:hidden@host/db")
    monkeypatch.setenv("STEPVIDEO_POSTGRESQL_PASSWORD", "wrong")
    with pytest.raises(ArtifactError, match="password authentication failed") as told:
        postgresql.prepare()
    assert "wrong" not in str(told.value)
    with pytest.raises(ArtifactError, match="PostgreSQL at 127.0.0.1:1/db"):
        PostgreSQL("postgresql://127.0.0.1:1/db").prepare()
