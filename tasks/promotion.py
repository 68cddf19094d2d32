"""Promotions that are never half done: what is meant is written first, the registry's alias is set last.

    <store>/_promotions/lock
    <store>/_promotions/0001/promotion.json   the record: what, from, to, why, who approved, and its state
                             evidence.html, decision.json, …   what the decision rests on

A folder appears whole, in state `begun`. Whoever comes next finishes one that was killed: every step can be repeated.
"""

from __future__ import annotations

import contextlib
import getpass
import os
import shutil
import socket
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from stepvideo import storage
from stepvideo.artifact import Artifact, Store, damage, lock
from stepvideo.errors import ArtifactError, StepVideoError
from tasks.registry import CHAMPION, PREVIOUS, Registry, Unknown, Version

SCHEMA = 1
FOLDER, RECORD = "_promotions", "promotion.json"
PROMOTION, ROLLBACK = "promotion", "rollback"
BEGUN, DONE, FAILED = "begun", "done", "failed"
WAIT_S, POLL_S = 600.0, 0.2

Record = dict[str, Any]


class Moved(StepVideoError):
    """The alias points at another version than the decision was about."""


def history(store: Store) -> list[Record]:
    """Every promotion and rollback, oldest first. Raises ArtifactError: a record cannot be read."""
    return [storage.read_json(p) for p in sorted((store.root / FOLDER).glob(f"[0-9]*/{RECORD}"))]


def folder_of(store: Store, record: Mapping[str, Any]) -> Path:
    return store.root / FOLDER / record["id"]


@contextlib.contextmanager
def alone(store: Store) -> Iterator[None]:
    """One at a time changes aliases of a store's models. Raises StepVideoError after ten minutes."""
    until = time.monotonic() + WAIT_S
    while True:
        with lock(store.root / FOLDER) as held:
            if held:
                yield
                return
        if time.monotonic() > until:
            raise StepVideoError(f"another promotion holds {store.root / FOLDER}/lock for {WAIT_S:g} s; see who does")
        time.sleep(POLL_S)


def intact(version: Version) -> Artifact:
    """A version's artifact, every file of it checked.

    Raises:
        ArtifactError: names the file, and the command that makes it again where that is known.
    """
    directory = version.path.parent
    try:
        manifest = storage.read_json(directory / "manifest.json")
        wrong = damage(directory, manifest)
        command = manifest.get("lineage", {}).get("command", "")
        if not wrong and manifest["digest"] != version.digest:
            wrong = "its content is another than the one that was registered"
    except ArtifactError as e:
        wrong, command = str(e), ""
    if wrong:
        again = command or "the `stepvideo run` that made it"
        raise ArtifactError(f"{version} is not whole at {directory}: {wrong}; make it again: {again}")
    return Artifact(directory, manifest)


def begin(
    store: Store,
    registry: Registry,
    kind: str,
    alias: str,
    version: Version,
    evidence: Sequence[Path] = (),
    approval: Mapping[str, Any] | None = None,
    **why: Any,
) -> Record:
    """Write down what is to be done, with copies of the evidence, for `finish`; the registry stays as it is.

    To be called inside `alone`.

    Args:
        approval: by, when, note. What was seen, the digests of the evidence, is added.
        why: reason, forced, decision.

    Raises:
        ArtifactError: the store cannot be written.
    """
    root = store.root / FOLDER
    numbers = [int(p.parent.name) for p in root.glob(f"[0-9]*/{RECORD}")]
    name = f"{max(numbers, default=0) + 1:04d}"
    for left in root.glob(".[0-9]*"):  # of killed processes; who calls this holds the lock
        shutil.rmtree(left, ignore_errors=True)
    draft = root / f".{name}.{uuid.uuid4().hex[:8]}"
    current = registry.aliases().get(alias)
    try:
        draft.mkdir(parents=True)
        for file in evidence:
            shutil.copyfile(file, draft / file.name)
        seen = {p.name: storage.sha256_file(p) for p in sorted(draft.iterdir())}
        record = {
            "schema": SCHEMA,
            "id": name,
            "kind": kind,
            "state": BEGUN,
            "model": registry.model,
            "registry": registry.where,
            "alias": alias,
            "version": version.number,
            "from": current,
            "from_digest": "" if current is None else registry.version(current).digest,
            "previous": _previous(store, registry, kind, alias, version.number, current),
            "digest": version.digest,
            "path": str(version.path),
            "evidence": seen,
            "approval": {**approval, "seen": seen} if approval else None,
            "by": f"{getpass.getuser()}@{socket.gethostname()}",
            "begun": time.time(),
            "ended": None,
            **why,
        }
        storage.write_json(draft / RECORD, record)
        os.rename(draft, root / name)
    except OSError as e:
        raise ArtifactError(f"cannot write {root / name}: {e.strerror or e}; nothing was promoted") from e
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return record


def finish(store: Store, registry: Registry, record: Record) -> Record:
    """Do what a record says, from wherever it was left; the alias is set last.

    Raises:
        Moved: the alias was moved by somebody else meanwhile; the record is closed as failed.
        Unknown, ArtifactError: the version, or files of it, are gone; likewise.
        StepVideoError: the registry cannot be reached: the same command again finishes it.
    """
    if record["state"] != BEGUN:
        return record
    if record["registry"] != registry.where:
        raise StepVideoError(
            f"promotion {record['id']} was begun at {record['registry']}, this is {registry.where}; finish it there"
        )
    try:
        version = registry.version(record["version"])
    except Unknown as e:
        _close(store, record, FAILED, error=str(e))
        raise
    current = registry.aliases().get(record["alias"])
    if current != version.number:
        try:
            if current != record["from"]:
                said = f"{record['alias']} is version {current} by now, the decision was about version {record['from']}"
                raise Moved(f"not promoted: {said}; compare with that one: stepvideo challenge {version.number}")
            intact(version)
        except (Moved, ArtifactError) as e:
            _close(store, record, FAILED, error=str(e))
            raise
        _tell(store, registry, record, version)
        registry.set_alias(record["alias"], version.number)
    return _close(store, record, DONE)


def finish_begun(store: Store, registry: Registry) -> list[str]:
    """Finish what a killed process has begun; what was done, in words. Raises as `finish`, but for what it closes.

    What was begun at another registry is left to whoever works with that one.
    """
    said = []
    for record in history(store):
        if record["state"] == BEGUN and record["registry"] == registry.where:
            what = f"{record['kind']} {record['id']} of {record['model']} version {record['version']}"
            try:
                finish(store, registry, record)
                said.append(f"{what} had been interrupted and is finished now")
            except (Moved, Unknown, ArtifactError) as e:
                said.append(f"{what} had been interrupted and is closed: {e}")
    return said


def _tell(store: Store, registry: Registry, record: Record, version: Version) -> None:
    """Evidence, tags and the alias `previous`: all that comes before the alias itself."""
    folder = folder_of(store, record)
    tags = {record["kind"]: record["id"]}
    if record["evidence"]:
        files = [folder / name for name in record["evidence"]]
        tags["evidence"] = registry.keep(version, files, f"{record['kind']}/{record['id']}")
    if record.get("forced"):
        tags["forced"] = record["forced"]
    if record["approval"]:
        tags["approved_by"] = record["approval"]["by"]
    registry.tag(version.number, tags)
    there = {v.number for v in registry.versions()}  # a former champion may have been deleted
    if record["kind"] == ROLLBACK and record["from"] in there:
        registry.tag(record["from"], {"rolled_back": f"{record['id']}: {record.get('reason', '')}"})
    if record["alias"] == CHAMPION:
        if record["previous"] in there:
            registry.set_alias(PREVIOUS, record["previous"])
        elif PREVIOUS in registry.aliases():
            registry.drop_alias(PREVIOUS)


def _close(store: Store, record: Record, state: str, **about: Any) -> Record:
    record.update(state=state, ended=time.time(), **about)
    storage.write_json(folder_of(store, record) / RECORD, record)
    return record


def champions(store: Store, registry: Registry, alias: str = CHAMPION) -> list[int]:
    """The versions that had an alias before the present one, oldest first, and it: what rollbacks go back along."""
    stack: list[int] = []
    for r in history(store):
        if (r["state"], r["model"], r["registry"], r["alias"]) != (DONE, registry.model, registry.where, alias):
            continue
        if r["kind"] == ROLLBACK and r["version"] in stack:
            del stack[stack.index(r["version"]) + 1 :]
            continue
        if r["from"] is not None and (not stack or stack[-1] != r["from"]):
            stack.append(r["from"])
        stack.append(r["version"])
    return stack


def _previous(store: Store, registry: Registry, kind: str, alias: str, number: int, current: int | None) -> int | None:
    """What the alias `previous` is to be afterwards."""
    if kind == PROMOTION:
        return current
    stack = champions(store, registry, alias)
    at = stack.index(number) if number in stack else 0
    return stack[at - 1] if at > 0 else None


def rolled_back(store: Store, digest: str) -> Record | None:
    """The rollback that took a content away from its alias, if the last word about it was one."""
    last = None
    for r in history(store):
        if r["state"] == DONE and r["kind"] == ROLLBACK and r["from_digest"] == digest:
            last = r
        elif r["state"] == DONE and r["digest"] == digest:
            last = None
    return last
