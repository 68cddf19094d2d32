"""What is known of each node: its state in StepMind's care and everything that happened to it.

One JSON file a node in a folder that all nodes see. Writers lock it (`flock`), write it whole or not at all, and may
add to the history, never change it.
"""

from __future__ import annotations

import fcntl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

from stepvideo.errors import ArtifactError, ConfigError
from stepvideo.mind.faults import Category
from stepvideo.storage import read_json, write_json


class State(StrEnum):
    """Where a node is in StepMind's care."""

    IN_SERVICE = "in service"
    BUFFER = "buffer"  # healthy, waiting to take another's place
    DRAINING = "draining"  # by us; jobs may still run
    DRAINED = "drained"  # by us, and nobody knows what to do with it
    ADMIN = "drained by an admin"  # hands off
    REBOOTING = "rebooting"
    CHECKING = "checking"
    STRESSING = "stressing"
    OUT = "out for repair"  # a person's turn


class Kind(StrEnum):
    """Of an entry in a node's history."""

    ALERT = "alert"  # a fault was seen; `weight`: how much of a failure it was
    REPAIR = "repair"  # a reboot, or what a person did; `name`: reboot, inspect, replace
    STRESS = "stress"  # stress and load tests, with their duration
    STATE = "state"


@dataclass(frozen=True)
class Entry:
    """One thing that happened. time in seconds since the epoch (or a simulation's start); seconds: its duration."""

    time: float
    kind: Kind
    name: str
    ok: bool = True
    weight: float = 0.0  # of alerts: 1 ended or would have ended a job, less: it only slowed it
    seconds: float = 0.0
    category: Category | None = None
    detail: str = ""


@dataclass(frozen=True)
class Record:
    """A node. home: the pool (partition) that it belongs to when it is in order; fault, tries: of the current case."""

    name: str
    state: State = State.IN_SERVICE
    since: float = 0.0
    home: str = ""
    fault: str = ""
    tries: int = 0  # of the present step
    history: tuple[Entry, ...] = ()

    def with_entry(self, *entries: Entry) -> Record:
        return replace(self, history=self.history + entries)

    def into(self, state: State, now: float, detail: str = "", **changes: Any) -> Record:
        """In another state (or the same one again), which its history tells."""
        moved = replace(self, state=state, since=now, **changes)
        return moved.with_entry(Entry(now, Kind.STATE, state, detail=detail))

    def json(self) -> dict[str, Any]:
        defaults = asdict(Entry(0, Kind.STATE, ""))
        rows = [{k: v for k, v in asdict(e).items() if v != defaults[k] or k in _ALWAYS} for e in self.history]
        return {**asdict(replace(self, history=())), "history": rows}

    @classmethod
    def of_json(cls, data: dict[str, Any]) -> Record:
        rows = tuple(
            Entry(**{**e, "kind": Kind(e["kind"]), "category": Category(e["category"]) if e.get("category") else None})
            for e in data["history"]
        )
        return cls(**{**data, "state": State(data["state"]), "history": rows})


_ALWAYS = ("time", "kind", "name")


def first_seen(name: str, home: str, now: float, state: State = State.IN_SERVICE) -> Record:
    return Record(name, home=home).into(state, now, "first seen")


class Book:
    """The records in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)

    def get(self, name: str) -> Record | None:
        """None: nothing is known of it.

        Raises:
            ArtifactError: a file that does not read.
        """
        path = self._path(name)
        if not path.exists():
            return None
        try:
            return Record.of_json(read_json(path))
        except (KeyError, TypeError, ValueError) as e:
            raise ArtifactError(f"{path} is no record of a node: {e}; move it away, and the node begins anew") from e

    def all(self) -> dict[str, Record]:
        names = sorted(p.stem for p in self.folder.glob("*.json"))
        return {name: record for name in names if (record := self.get(name))}

    def update(self, name: str, change: Callable[[Record | None], Record]) -> Record:
        """Replaces a record by what `change` makes of it, with no other writer between.

        Raises:
            ArtifactError: the change rewrites history, or the file cannot be written.
        """
        with self._locked(name):
            old = self.get(name)
            new = change(old)
            if old and new.history[: len(old.history)] != old.history:
                raise ArtifactError(f"{name}: a change of its record would rewrite its history; only add to it")
            if new != old:
                write_json(self._path(name), new.json())
            return new

    def add(self, name: str, *entries: Entry) -> Record:
        """Entries to a node that is known.

        Raises:
            ConfigError: it is not.
        """

        def change(record: Record | None) -> Record:
            if record is None:
                known = ", ".join(self.all()) or "none"
                raise ConfigError(f"nothing is known of node {name}; known: {known}")
            return record.with_entry(*entries)

        return self.update(name, change)

    @contextmanager
    def _locked(self, name: str) -> Iterator[None]:
        with locked(self.folder / f".{name}.lock"):
            yield

    def _path(self, name: str) -> Path:
        if not name or name.startswith(".") or "/" in name:
            raise ConfigError(f"{name!r} is no name of a node")
        return self.folder / f"{name}.json"


@contextmanager
def locked(path: Path, wait: bool = True) -> Iterator[bool]:
    """The only one within it, over all nodes whose file system honours `flock`; without `wait` whether it is."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as f:
        try:
            fcntl.flock(f, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True
