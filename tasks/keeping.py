"""What of a store must stay, and why. What is removed then leaves the store closed: each artifact that stays has all
that it was made from, so its lineage can be told and it can be made again, in part or whole.
"""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from stepvideo.artifact import NewerStore, Store, is_running, read_versioned
from stepvideo.errors import ArtifactError
from tasks.keeping_named import Ref, named, own_papers, registered, studies
from tasks.ledger import Ledger
from tasks.record import RunRecord
from tasks.slurm_queue import RECORD as SLURM

Planned = Callable[[RunRecord], Iterable[Ref]]  # what a live run may yet take from the store

KEY = re.compile(r"[0-9a-f]{16}")
STARTING_S = 600.0  # an attempt without an end and a heartbeat may still be on its way for so long


@dataclass(frozen=True)
class Rules:
    """What gc is asked for.

    Attributes:
        older_than_s: what was used later stays. keep_runs: so many newest runs stay, whatever their age.
        named_by: files and folders whose text names what must stay, by key or digest (data versions, studies).
        registry: ask MLflow's registry. only: categories that may go; empty: all.
    """

    older_than_s: float = 30 * 86400.0
    keep_runs: int = 5
    named_by: tuple[Path, ...] = ()
    registry: bool = True
    only: tuple[str, ...] = ()
    now: float = field(default_factory=time.time)

    def is_old(self, when: float) -> bool:
        return self.now - when > self.older_than_s


def places(store: Store) -> dict[Ref, Path]:
    """{(stage, key): its directory}, complete artifacts and begun ones."""
    found = {}
    for stage in store.root.iterdir():
        if stage.is_dir() and not stage.name.startswith(("_", ".")):
            found |= {(stage.name, d.name): d for d in stage.iterdir() if KEY.fullmatch(d.name) and d.is_dir()}
    return found


class Inputs:
    """The inputs of artifacts, read once each: neither manifests nor specs of a key ever change theirs."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._known: dict[Ref, list[Ref]] = {}

    def of(self, ref: Ref) -> list[Ref]:
        """Raises NewerStore."""
        if ref not in self._known:
            directory = self._store.dir(*ref)
            for name in ("manifest.json", "spec.json"):
                try:
                    inputs = read_versioned(directory / name)["inputs"]
                except NewerStore:
                    raise
                except ArtifactError:  # absent, or its job was killed at its first word
                    continue
                self._known[ref] = [(i["stage"], i["key"]) for i in inputs.values()]
                break
            else:
                return []
        return self._known[ref]

    def closure(self, reasons: Mapping[Ref, str]) -> dict[Ref, str]:
        """`reasons` and all that these artifacts were made from, each with the nearest reason."""
        found = dict(reasons)
        todo = list(found)
        while todo:
            ref = todo.pop(0)
            for source in self.of(ref):
                if source not in found:
                    found[source] = f"{ref[0]}/{ref[1]} was made from it"
                    todo.append(source)
        return found


def live_needs(everyone: Iterable[RunRecord], planned: Planned) -> dict[Ref, str]:
    """What runs that are at work have come to, and what they may yet take from the store."""
    found: dict[Ref, str] = {}
    for record in everyone:
        if record.is_live:
            why = f"run {record.data['id']} is at work"
            found |= {ref: why for ref in (*record.refs.items(), *planned(record))}
    return found


def jobs(there: Mapping[Ref, Path]) -> dict[Ref, str]:
    """Stages with a job that runs or waits in a queue, whoever started it."""
    return {ref: "a job runs or waits" for ref, place in there.items() if has_job(place)}


def has_job(directory: Path) -> bool:
    if is_running(directory) or (directory / SLURM).exists():  # Slurm's file goes when the end of its job is known
        return True
    try:
        last = (Ledger(directory).attempts or [{"ended": 0}])[-1]
    except ArtifactError:
        return False
    return "ended" not in last and time.time() - last.get("started", 0.0) < STARTING_S


def reasons(store: Store, rules: Rules, everyone: list[RunRecord], planned: Planned) -> dict[Ref, str]:
    """{what must stay: why}, not yet with what these were made from.

    Raises:
        ArtifactError: the registry of a run cannot be asked.
    """
    there = places(store)
    used = last_uses(there, everyone)
    found = {ref: "used lately" for ref in there if not rules.is_old(used[ref])}
    for record in kept_runs(everyone, rules):
        found |= {ref: f"run {record.data['id']} is kept" for ref in record.refs.items()}
    found |= named(store, there, [*rules.named_by, *own_papers(store), *studies(everyone)])
    if rules.registry:
        found |= registered(store, everyone)
    found |= live_needs(everyone, planned) | jobs(there)
    return {ref: why for ref, why in found.items() if ref in there}


def kept_runs(everyone: list[RunRecord], rules: Rules) -> list[RunRecord]:
    """The newest ones, the pinned ones, those that ended lately and those that go on."""
    newest = everyone[max(len(everyone) - rules.keep_runs, 0) :]
    return [r for r in everyone if r in newest or r.is_pinned or r.is_live or not rules.is_old(last_seen(r))]


def last_seen(record: RunRecord) -> float:
    return record.data["ended"] or max(record.data["started"], record.path.stat().st_mtime)


def last_uses(there: Mapping[Ref, Path], everyone: Iterable[RunRecord]) -> dict[Ref, float]:
    """When each was last written, or taken by a run: seconds since 1970."""
    times = {ref: max(_mtimes(place), default=0.0) for ref, place in there.items()}
    for record in everyone:
        when = last_seen(record)
        for ref in record.refs.items():
            if ref in times:
                times[ref] = max(times[ref], when)
    return times


def _mtimes(directory: Path) -> Iterator[float]:
    for name in ("", "manifest.json", "spec.json", "ledger.json", "events.jsonl", "error.json", "heartbeat.json"):
        with contextlib.suppress(OSError):
            # a folder's own time changes whenever its `lock` is made, which is no use, if there is anything else
            if name or not (directory / "spec.json").exists() and not (directory / "manifest.json").exists():
                yield (directory / name).stat().st_mtime
