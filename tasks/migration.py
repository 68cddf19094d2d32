"""Files of a store brought up to this version's schema, on disk. They are read as they are, too (`versioned`)."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from stepvideo import storage
from stepvideo.artifact import SCHEMA, Store, is_running, lock, versioned
from stepvideo.errors import ArtifactError
from tasks.keeping import places
from tasks.record import RUNS, guard, records

PAPERS = ("spec.json", "manifest.json")


def papers(store: Store) -> Iterator[Path]:
    """Every file that has a schema."""
    yield from sorted((store.root / RUNS).glob("*/run.json"))
    for _, place in sorted(places(store).items()):
        yield from (place / name for name in PAPERS if (place / name).exists())


def outdated(store: Store) -> dict[Path, int]:
    """{file: its schema} of those that are older than this version's. Raises NewerStore, or ArtifactError."""
    found = {}
    for path in papers(store):
        data = storage.read_json(path)
        versioned(data, path)
        if (schema := data.get("schema", 1)) < SCHEMA:
            found[path] = schema
    return found


def check_idle(store: Store) -> None:
    """Raises ArtifactError where a run or a job is at work."""
    if live := [r.data["id"] for r in records(store) if r.is_live]:
        raise ArtifactError(f"run {live[0]} is at work in {store.root}; wait for it, or end it with Ctrl-C")
    if jobs := [f"{s}/{k}" for (s, k), place in places(store).items() if is_running(place)]:
        raise ArtifactError(f"a job is at {jobs[0]} in {store.root}; wait for it")


def migrate(store: Store, on: Callable[[Path], None] = lambda _: None) -> Counter[str]:
    """Bring every file up; how many of each name were. Killed, it leaves some new and some old, and both are read.

    A file keeps its time, by which the newest artifact of a stage is known.

    Raises:
        ArtifactError: a run or a job is at work, or a file cannot be read or written. NewerStore: see `versioned`.
    """
    check_idle(store)
    done: Counter[str] = Counter()
    for path in outdated(store):
        if path.name == "run.json":
            with guard(store.root / RUNS):
                _rewrite(path)
        else:
            with lock(path.parent) as mine:
                if not mine:
                    raise ArtifactError(f"a job is at {path.parent}; wait for it, and give the same command again")
                _rewrite(path)
        done[path.name] += 1
        on(path)
    return done


def _rewrite(path: Path) -> None:
    stat = path.stat()
    data: dict[str, Any] = storage.read_json(path)
    storage.write_json(path, versioned(data, path))
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
