"""`stepvideo telemetry ship FOLDER`: the consumer process."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path

from stepvideo.errors import ConfigError
from stepvideo.telemetry.schema import place_of

NICE = 10
HELP = "make Parquet of what the ranks have recorded; the one consumer of a folder, may be killed at any time"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", metavar="FOLDER", type=Path, help="telemetry folder, or the store that holds one")
    parser.add_argument("--follow", action="store_true", help="go on until SIGTERM or SIGINT, and one round longer")
    text = "likewise, or until its input ends, as when who started it is gone; gives way to other work"
    parser.add_argument("--child", action="store_true", help=text)
    parser.add_argument("--every", type=float, default=5.0, metavar="S", help="seconds between rounds (5)")
    text = "fill this database, too, such as http://host:8123/database; user and password: STEPVIDEO_CLICKHOUSE_*"
    parser.add_argument("--clickhouse", default="", metavar="URL", help=text)
    text = "likewise, such as postgresql://host:5432/database; user and password: STEPVIDEO_POSTGRESQL_*"
    parser.add_argument("--postgresql", default="", metavar="URL", help=text)
    parser.add_argument("--json", action="store_true", help="print JSON")


def call(args: argparse.Namespace) -> int:
    from stepvideo.telemetry.clickhouse import ClickHouse
    from stepvideo.telemetry.consumer import consume
    from stepvideo.telemetry.postgresql import PostgreSQL
    from stepvideo.telemetry.ship import Journal
    from stepvideo.telemetry.sinks import Sink

    folder = place_of(args.folder)
    follow = args.follow or args.child
    if not folder.is_dir() and not follow:
        raise ConfigError(f"{folder} is no folder; trainings record in STORE/_telemetry or runtime.telemetry.folder")
    databases: list[Sink] = [ClickHouse(args.clickhouse)] if args.clickhouse else []
    databases += [PostgreSQL(args.postgresql)] if args.postgresql else []
    ended = threading.Event()
    if follow:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: ended.set())
    if args.child:
        os.nice(NICE)
        threading.Thread(target=_end_of_input, args=(ended,), daemon=True).start()
    shipped = consume(folder, databases, _until(ended, args.every) if follow else lambda: True)
    if shipped is None:
        print(f"{folder} is being shipped by another process", file=sys.stderr)
        return 1
    journal = Journal.read(folder)
    found = {"shipped": shipped, "batches": journal.batch, "records": journal.records, "damaged": journal.damaged}
    rows = ", ".join(f"{count} {table}" for table, count in journal.records.items())
    print(json.dumps(found) if args.json else f"{shipped} records shipped; in {folder} so far: {rows}")
    return 0


def _until(ended: threading.Event, every_s: float) -> Callable[[], bool]:
    """Waits between rounds; whether the one before was the last: it began when the end was known already."""
    last = False

    def wait() -> bool:
        nonlocal last
        if last:
            return True
        last = ended.wait(every_s)
        return False

    return wait


def _end_of_input(ended: threading.Event) -> None:
    while os.read(sys.stdin.fileno(), 1):
        pass
    ended.set()
