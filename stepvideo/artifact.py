"""The artifact store: a stage directory is complete (it has a verified `manifest.json`) or it is not there.

    <store>/<stage>/<key>/  spec.json      what to do (config, inputs, code fingerprint, lineage)
                            ledger.json    who ran it: attempts, job ids, tracking ids (the driver's notebook)
                            heartbeat.json alive job: pid, host, time, progress
                            events.jsonl   metrics and events
                            logs/          stdout and stderr of every attempt
                            work/          checkpoints and finished shards; removed on success
                            array/I/       lock and heartbeat of element I of a job array
                            out.tmp/       being written
                            out/           the artifact
                            manifest.json  written last: sha256 and size of every file, lineage, metrics, timings
    <store>/_parts/         results that serve several keys (`StageContext.shared`); `stepvideo gc` removes old ones

Keys use input *digests*, so an upstream stage that reproduces its bytes stops the ripple.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stepvideo import storage
from stepvideo.config import digest
from stepvideo.errors import ArtifactError

SCHEMA = 2  # of specs, manifests and records of runs; 1 is how it was before specs and records said theirs
KEYED = 1  # goes into every key: another number would make all artifacts anew
FULL_HASH_BELOW = 1 << 30  # bytes; above it a file is re-hashed only when its mtime changed since it was last verified


@dataclass(frozen=True)
class Artifact:
    """A complete, verified artifact."""

    dir: Path  # the stage directory
    manifest: Mapping[str, Any]

    @property
    def out(self) -> Path:
        return self.dir / "out"

    @property
    def digest(self) -> str:
        return self.manifest["digest"]

    @property
    def metrics(self) -> dict[str, float]:
        return self.manifest.get("metrics", {})


class NewerStore(ArtifactError):
    """A file of the store was written by a newer version."""


def versioned(data: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """A spec, a manifest or a record of a run as this version writes it; those of older versions are brought up.

    Raises:
        NewerStore: names the file and its schema.
    """
    schema = data.get("schema", 1)
    if not isinstance(schema, int) or schema > SCHEMA:
        raise NewerStore(
            f"{path} has schema {schema!r}, and this stepvideo knows up to {SCHEMA}: "
            "this store was written by a newer stepvideo; upgrade this one (git pull && make setup)"
        )
    return {**data, "schema": SCHEMA}


def read_versioned(path: Path) -> dict[str, Any]:
    """`versioned` of a file. Raises NewerStore, or ArtifactError where there is no JSON object."""
    data = storage.read_json(path)
    if not isinstance(data, dict):
        raise ArtifactError(f"{path} is no JSON object; remove it, or bring it back from a backup")
    return versioned(data, path)


def key_of(hashed: Mapping[str, Any]) -> str:
    """16 hex digits that name a stage's result: a digest of `StageSpec.hashed()`."""
    return digest({"schema": KEYED, **hashed})[:16]


def content_digest(files: Mapping[str, Mapping[str, Any]]) -> str:
    """Digest of an artifact's content, from the checksums of its files."""
    return digest({name: [f["sha256"], f["size"]] for name, f in files.items()})


def file_digests(out: Path, names: Iterable[str]) -> dict[str, str]:
    """{name: sha256} of files below an artifact's `out`, from its manifest, or below another folder, by reading them.

    Empty for a file that is not there.
    """
    manifest = out.parent / "manifest.json"
    known = storage.read_json(manifest)["files"] if manifest.exists() else {}
    return {n: known[n]["sha256"] if n in known else _sha256(out / n) for n in set(names)}


def _sha256(path: Path) -> str:
    try:
        return storage.sha256_file(path)
    except OSError:
        return ""


class Store:
    """A folder of artifacts. Safe for many readers; each key is written by the one process that holds its lock."""

    def __init__(self, root: Path | str) -> None:
        self.root = Path(root).expanduser().absolute()

    def check_writable(self) -> None:
        """Raises ArtifactError with the path and the reason."""
        probe = self.root / f".probe-{os.getpid()}"
        storage.write_atomic(probe, b"ok")
        probe.unlink(missing_ok=True)

    def dir(self, stage: str, key: str) -> Path:
        return self.root / stage / key

    def find(self, stage: str, key: str, verify: bool = True) -> Artifact | None:
        """The artifact, or None if it is absent, incomplete or damaged (`why_not` tells which)."""
        directory = self.dir(stage, key)
        path = directory / "manifest.json"
        if not path.exists():
            return None
        try:
            manifest = read_versioned(path)
        except NewerStore:  # it is there: making it again would overwrite it
            raise
        except ArtifactError:
            return None
        if verify and damage(directory, manifest):
            return None
        return Artifact(directory, manifest)

    def why_not(self, stage: str, key: str) -> str:
        """Why `find` gives None: "absent", "incomplete", or what is damaged."""
        directory = self.dir(stage, key)
        if not directory.exists():
            return "absent"
        if not (directory / "manifest.json").exists():
            return "incomplete"
        try:
            return damage(directory, read_versioned(directory / "manifest.json")) or "ok"
        except NewerStore:
            raise
        except ArtifactError as e:
            return str(e)

    def set_aside_damaged(self, stage: str, key: str) -> str | None:
        """Move a damaged `out/` out of the way (kept for inspection); returns what was wrong with it."""
        directory = self.dir(stage, key)
        if not (directory / "manifest.json").exists():
            return None
        reason = self.why_not(stage, key)
        if reason == "ok":
            return None
        (directory / "manifest.json").unlink()
        if (directory / "out").exists():
            os.replace(directory / "out", directory / f"out.damaged-{int(time.time())}")
        return reason

    def resolve(self, ref: str) -> Artifact:
        """An artifact by "stage", "stage/key" (or a prefix of the key), or a path. The newest wins for a bare stage.

        Raises:
            ArtifactError: nothing or more than one thing matches.
        """
        path = Path(ref)
        if (path / "manifest.json").exists():
            return Artifact(path.absolute(), read_versioned(path / "manifest.json"))
        stage, _, prefix = ref.partition("/")
        found = [m.parent for m in self.root.glob(f"{stage}/{prefix}*/manifest.json")] if stage else []
        if not found:
            raise ArtifactError(f"no artifact {ref!r} in {self.root}; `stepvideo status` lists what is there")
        if prefix and len(found) > 1:
            raise ArtifactError(f"{ref!r} is ambiguous: {', '.join(sorted(p.name for p in found))}")
        newest = max(found, key=lambda p: (p / "manifest.json").stat().st_mtime)
        return Artifact(newest, read_versioned(newest / "manifest.json"))

    def artifacts(self) -> list[Artifact]:
        """Every complete artifact (not verified), oldest first."""
        times = {p: t for p in self.root.glob("*/*/manifest.json") if (t := _mtime(p)) is not None}
        found = []
        for path in sorted(times, key=times.__getitem__):
            try:
                found.append(Artifact(path.parent, read_versioned(path)))
            except ArtifactError:
                if path.exists():  # else it was removed meanwhile
                    raise
        return found


def _mtime(path: Path) -> float | None:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return None


def damage(directory: Path, manifest: Mapping[str, Any]) -> str:
    """What is wrong with an artifact's files, in words; empty if nothing is."""
    for name, expected in manifest["files"].items():
        path = directory / "out" / name
        try:
            stat = path.stat()
        except OSError:
            return f"{name} is missing"
        if stat.st_size != expected["size"]:
            return f"{name} has {stat.st_size} bytes, expected {expected['size']}"
        if stat.st_size < FULL_HASH_BELOW or stat.st_mtime > manifest["finished"]:
            if storage.sha256_file(path) != expected["sha256"]:
                return f"{name} does not match its sha256"
    return ""


@contextlib.contextmanager
def lock(directory: Path) -> Iterator[bool]:
    """Hold the directory's lock; yields False at once if another live process holds it. Freed by any kind of death."""
    import fcntl

    directory.mkdir(parents=True, exist_ok=True)
    with (directory / "lock").open("a+") as f:
        for wait in (0.05, 0.1, 0.2, 0.0):  # `is_running` holds it for an instant; that is no other job
            try:
                fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if not wait:
                    yield False
                    return
                time.sleep(wait)
        yield True


def is_locked(directory: Path) -> bool:
    """Whether a live process of this host holds the directory's lock."""
    import fcntl

    with (directory / "lock").open("a+") as f:
        try:
            fcntl.flock(f, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def is_running(directory: Path, stale_after_s: float = 60.0) -> bool:
    """Whether a job is alive in this stage directory, or an element of a job array below it."""
    return any(is_held(d, stale_after_s) for d in (directory, *directory.glob("array/*")))


def is_held(directory: Path, stale_after_s: float = 60.0) -> bool:
    """Whether the job with a heartbeat in this very directory is alive: by its lock on this host, else by its age."""
    try:
        beat = storage.read_json(directory / "heartbeat.json")
    except ArtifactError:
        return False
    if beat["host"] == socket.gethostname():
        return is_locked(directory)
    return time.time() - beat["time"] < stale_after_s
