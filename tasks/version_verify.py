"""Whether every file of a version is whole, in DVC's remote and here: its md5, and what the manifests say of it."""

from __future__ import annotations

import contextlib
import hashlib
import io
import tarfile
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from stepvideo import mirror, storage
from stepvideo.artifact import content_digest
from stepvideo.errors import ArtifactError
from tasks.version_dvc import JSON, Depot
from tasks.versions import VERSIONS, Version

REMOTE, CACHE, FOLDER = "remote", "cache", "folder"
MISSING, DAMAGED = "missing", "damaged"
CHUNK = 1 << 20
LIST = "(list of files)"


@dataclass(frozen=True)
class Fault:
    """A file of a version that is not as it should be."""

    where: str  # REMOTE, CACHE (this checkout's objects) or FOLDER (versions/NAME, after `dvc pull`)
    file: str  # in the version
    problem: str  # MISSING or DAMAGED
    detail: str
    oid: str = ""


def verify(
    version: Version, root: Path, quick: bool = False, done: Callable[[int, int], None] = lambda *_: None
) -> tuple[list[Fault], dict[str, int]]:
    """Read a version's files; what is wrong, and how many files were looked at in each place.

    Args:
        quick: ask the remote only whether it has the objects.
        done: told how many of how many files of the remote were read.

    Raises:
        ArtifactError: the remote cannot be used at all.
    """
    with Depot(root, version.name) as depot:
        depot.check_remote(write=False)
        try:
            files = depot.files(version.md5)
        except ArtifactError as e:
            return [Fault(REMOTE, LIST, MISSING, str(e), version.md5)], {REMOTE: 1}
        faults, looked = _remote(depot, version, files, quick, done), {REMOTE: len(files) + 1}
        here = {n: path for n, oid in files.items() if (path := Path(depot.cache.oid_to_path(oid))).exists()}
        if here:
            looked[CACHE] = len(here)
            faults += _local(CACHE, files, here)
        folder = root / VERSIONS / version.name
        if folder.is_dir():
            looked[FOLDER] = len(files)
            faults += _local(FOLDER, files, {n: folder / n for n in files})
        return faults, looked


def repair(version: Version, root: Path, faults: list[Fault]) -> list[Fault]:
    """Drop what is damaged in the cache, send what the remote lacks or has damaged from what is whole here.

    Returns:
        What could not be mended, as this checkout has no whole copy.

    Raises:
        ArtifactError: the remote refuses it.
    """
    bad = {f.oid for f in faults if f.where == CACHE}
    with Depot(root, version.name) as depot:
        for oid in bad:
            Path(depot.cache.oid_to_path(oid)).unlink(missing_ok=True)
        wanted = [f for f in faults if f.where == REMOTE]
        able = [f for f in wanted if f.oid and Path(depot.cache.oid_to_path(f.oid)).exists()]
        if able:
            depot.check_remote(write=True)
        for f in able:
            if f.problem == DAMAGED:
                with depot.explained():
                    depot.remote.fs.remove(depot.remote.oid_to_path(f.oid))
        depot.send({f.oid for f in able})
        return [f for f in wanted if f not in able] + [f for f in faults if f.where == FOLDER]


def advice(version: Version, faults: list[Fault]) -> list[str]:
    """What to do about faults, a line each."""
    name, where = version.name, {f.where for f in faults}
    lost = {f.oid for f in faults if f.where == REMOTE}
    lines = []
    if REMOTE in where:
        who = version.meta.get("who") or "whoever published it"
        lines.append(
            f"the remote: `stepvideo data verify {name} --repair` sends {len(lost)} objects again from a checkout that "
            f"has them whole, such as that of {who}; without one, make the data again and publish them under a new name"
        )
    if CACHE in where:
        lines.append(f"here: `stepvideo data verify {name} --repair` drops them; the next checkout fetches them again")
    if FOLDER in where:
        lines.append(f"{VERSIONS}/{name}/: remove the folder; `stepvideo data checkout {name}` does not need it")
    return lines


def _remote(
    depot: Depot, version: Version, files: Mapping[str, str], quick: bool, done: Callable[[int, int], None]
) -> list[Fault]:
    missing = depot.missing([*files.values(), version.md5])
    faults = [Fault(REMOTE, n, MISSING, "not in the remote", oid) for n, oid in files.items() if oid in missing]
    if version.md5 in missing:
        faults.append(Fault(REMOTE, LIST, MISSING, "not in the remote", version.md5))
    if quick:
        return faults
    odb = depot.remote

    def opened(name: str) -> BinaryIO:
        oid = files.get(name, version.md5)
        return odb.fs.open(odb.oid_to_path(oid), "rb")

    there = [n for n, oid in files.items() if oid not in missing]
    there += [LIST] if version.md5 not in missing else []
    with depot.explained():
        manifests = _manifests([n for n in there if n.endswith(f"/{mirror.MANIFEST}")], opened)
        with ThreadPoolExecutor(storage.TRANSFERS) as pool:
            for i, found in enumerate(
                pool.map(lambda n: _wrong(n, files.get(n, version.md5), opened, manifests), there)
            ):
                faults += (
                    [Fault(REMOTE, found[0], DAMAGED, found[1], files.get(found[0], version.md5))] if found else []
                )
                done(i + 1, len(there))
    return faults + [Fault(REMOTE, n, MISSING, why) for n, why in _incomplete(manifests, files)]


def _local(where: str, files: Mapping[str, str], paths: Mapping[str, Path]) -> list[Fault]:
    """Faults of local files; in the folder all are wanted, in the cache those that are there."""
    faults = [Fault(where, n, MISSING, f"{p} is missing", files[n]) for n, p in paths.items() if not p.exists()]
    there = [n for n, p in paths.items() if p.exists()]
    manifests = _manifests([n for n in there if n.endswith(f"/{mirror.MANIFEST}")], lambda n: paths[n].open("rb"))
    for n in there:
        if found := _wrong(n, files[n], lambda n: paths[n].open("rb"), manifests):
            faults.append(Fault(where, n, DAMAGED, found[1], files[n]))
    return faults


def _manifests(names: list[str], opened: Callable[[str], BinaryIO]) -> dict[str, dict[str, Any]]:
    """{STAGE/KEY: manifest}, those that can be read."""
    import json

    found = {}
    for name in names:
        with contextlib.suppress(ValueError), opened(name) as f:
            manifest = json.loads(f.read())
            if isinstance(manifest, dict) and isinstance(manifest.get("files"), dict):
                found[name.removesuffix(f"/{mirror.MANIFEST}")] = manifest
    return found


def _wrong(
    name: str, oid: str, opened: Callable[[str], BinaryIO], manifests: Mapping[str, dict[str, Any]]
) -> tuple[str, str] | None:
    """(file, what is wrong with it), or None; one pass over its bytes."""
    expected, said = oid.removesuffix(JSON), ""
    parts = name.split("/", 2)
    manifest = manifests.get("/".join(parts[:2]), {}).get("files", {}) if len(parts) == 3 else {}
    try:
        with opened(name) as raw:
            stream = _Hashed(raw)
            if len(parts) == 3 and parts[2].startswith("out/"):
                said = _unlike(
                    parts[2].removeprefix("out/"), hashlib.file_digest(stream, "sha256").hexdigest(), manifest
                )
            elif name.endswith(".tar") and manifest:
                said = next(filter(None, (_unlike(n, sha, manifest) for n, sha in _members(stream))), "")
            while stream.read(CHUNK):
                pass
            if stream.md5.hexdigest() != expected:
                return name, f"md5 is {stream.md5.hexdigest()}, expected {expected}"
    except (tarfile.TarError, EOFError) as e:
        return name, f"no whole tar: {e}"
    except FileNotFoundError:
        return name, "vanished while it was verified"
    return (name, said) if said else None


def _members(stream: io.RawIOBase) -> Iterator[tuple[str, str]]:
    with tarfile.open(fileobj=stream, mode="r|") as tar:
        for member in tar:
            if file := tar.extractfile(member):
                yield member.name, hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]


def _unlike(name: str, sha256: str, manifest: Mapping[str, Any]) -> str:
    if manifest and name not in manifest:
        return f"{name} is not in the manifest"
    return f"{name}: sha256 is not the manifest's" if manifest and manifest[name]["sha256"] != sha256 else ""


def _incomplete(manifests: Mapping[str, dict[str, Any]], files: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Files that a manifest names and the version has neither by themselves nor in a tar; changed manifests."""
    for folder, manifest in manifests.items():
        if content_digest(manifest["files"]) != manifest.get("digest"):
            yield f"{folder}/{mirror.MANIFEST}", "its digest is not that of its files"
        tars = {n.removeprefix(f"{folder}/")[:-10] for n in files if n.startswith(f"{folder}/") and n.endswith(".tar")}
        for name in manifest["files"]:
            if f"{folder}/out/{name}" not in files and name.split("/")[0] not in tars:
                yield f"{folder}/out/{name}", "the manifest names it, the version has it not"


class _Hashed(io.RawIOBase):
    """A stream that takes the md5 of what is read from it."""

    def __init__(self, raw: BinaryIO) -> None:
        self._raw = raw
        self.md5 = hashlib.md5(usedforsecurity=False)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._raw.read(len(buffer))
        self.md5.update(data)
        buffer[: len(data)] = data
        return len(data)
