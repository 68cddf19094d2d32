"""Databases that the consumer fills from the Parquet parts, which stay the source of truth.

What a database has got is kept in `sinks/NAME.json`: the last batch. A part that was sent when the consumer was killed
is sent again with the same deduplication token, by which the database drops it.
"""

from __future__ import annotations

import urllib.parse
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Protocol

from stepvideo import storage
from stepvideo.errors import ArtifactError, ConfigError
from stepvideo.telemetry.schema import TABLES, batches_of, parts
from stepvideo.telemetry.ship import Hook, no_hook, sync

FOLDER = "sinks"


class Sink(Protocol):
    name: str

    def prepare(self) -> None:
        """Make the tables, if they are not there."""
        ...

    def send(self, table: str, part: Path, token: str) -> None:
        """Insert the records of a part, once a token. Raises ArtifactError."""
        ...


def address(name: str, url: str, schemes: Collection[str], example: str) -> urllib.parse.SplitResult:
    """The parts of a database's address.

    Raises:
        ConfigError: it is none, or has a password in it.
    """
    found = urllib.parse.urlsplit(url)
    if found.scheme not in schemes or not found.hostname:
        raise ConfigError(f"{name}={url!r} is no address; give one such as {example}")
    if found.username or found.password:
        raise ConfigError(
            f"the address of {name} at {found.hostname} has a user or password in it, which logs would show; give them "
            f"in STEPVIDEO_{name.upper()}_USER and STEPVIDEO_{name.upper()}_PASSWORD"
        )
    return found


def feed(folder: Path, sink: Sink, hook: Hook = no_hook) -> int:
    """Send what `sink` has not got; how many parts. Only of the process that ships `folder`.

    Raises:
        ArtifactError: the sink refused or cannot be reached; the next call goes on where this one ended.
    """
    ledger = folder / FOLDER / f"{sink.name}.json"
    sent = storage.read_json(ledger)["batch"] if ledger.exists() else 0
    if not ledger.exists():
        sink.prepare()
        _note(ledger, 0)
    count = 0
    for last, found in _by_batch(folder, sent):
        for table, part in found:
            sink.send(table, part, f"{table}-{part.parent.parent.name}-{part.parent.name}-{part.stem}")
            hook("sent")
            count += 1
        _note(ledger, last)
        hook("noted")
    return count


def until(folder: Path) -> int | None:
    """The last batch that all sinks have: later ones are not to be merged yet. None: there are no sinks."""
    return min((storage.read_json(p)["batch"] for p in (folder / FOLDER).glob("*.json")), default=None)


def _by_batch(folder: Path, sent: int) -> Iterator[tuple[int, list[tuple[str, Path]]]]:
    """(batch, its parts) after `sent`, ascending."""
    waiting = [(table, p) for table in TABLES for p in parts(folder, table) if batches_of(p)[1] > sent]
    if torn := [p for _, p in waiting if batches_of(p)[0] <= sent]:
        raise ArtifactError(f"{torn[0]} holds batches that were sent before batch {sent}, and later ones")
    for last in sorted({batches_of(p)[1] for _, p in waiting}):
        yield last, [(table, p) for table, p in waiting if batches_of(p)[1] == last]


def _note(ledger: Path, batch: int) -> None:
    storage.write_json(ledger, {"batch": batch})
    sync(ledger.parent)
