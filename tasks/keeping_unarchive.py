"""Archives of runs (`keeping_archive`): read through, and brought back into a store."""

from __future__ import annotations

import json
import os
import shutil
import tarfile
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from stepvideo import mirror, storage
from stepvideo.artifact import Artifact, Store, versioned
from stepvideo.errors import ArtifactError
from tasks.keeping_archive import RUN, SUMS, Hashed, On
from tasks.record import KILLED, RUNNING, RUNS, RunRecord

INCOMING = "_incoming"  # of a store
PIECE = 1 << 20


@dataclass(frozen=True)
class Contents:
    """What an archive that was checked holds: the run's id, its record, and the artifacts with their manifests."""

    run: str
    record: dict[str, Any]
    manifests: dict[str, dict[str, Any]]  # STAGE/KEY: manifest, of artifacts whose files are there
    bytes: int
    files: int


def check(path: Path, on: On = lambda _: None) -> Contents:
    """Read every byte of an archive and hold it against its checksums, and artifacts against their manifests.

    Raises:
        ArtifactError: it is no archive of a run, damaged, cut short, or of a newer version; names the file in it.
    """
    sums: dict[str, str] = {}
    papers: dict[str, Any] = {}
    sizes: dict[str, int] = {}
    top = listed = ""
    for name, member, file in _members(path):
        top = top or name.split("/")[0]
        inner = name.removeprefix(f"{top}/")
        hashed = Hashed(file, on)
        keep = inner in (RUN, SUMS) or inner.endswith("/manifest.json")
        kept = b""
        try:
            while data := hashed.read(PIECE):
                kept += data if keep else b""
        except (tarfile.TarError, OSError) as e:
            raise _unreadable(path, e) from e
        if listed or inner in sums or inner == name:
            raise ArtifactError(f"{path}: {name} is twice in it, or out of its place")
        if inner == SUMS:
            listed = kept.decode("utf-8", errors="replace")
        else:
            sums[inner], sizes[inner] = hashed.sha256, member.size
            if keep:
                papers[inner] = _json(path, inner, kept)
    if not listed:
        raise ArtifactError(
            f"{path} has no {SUMS} at its end: it was cut short, or is no archive of a run; copy it again"
        )
    said = {line[66:]: line[:64] for line in listed.splitlines()}
    if wrong := sorted(n for n in {*said, *sums} if said.get(n) != sums.get(n)):
        what = "is missing" if wrong[0] not in sums else "is not as its checksum says"
        raise ArtifactError(f"{path}: {wrong[0]} {what}; copy or make the archive again")
    if RUN not in papers:
        raise ArtifactError(f"{path} has no {RUN}: it is no archive of a run")
    manifests = _manifests(path, papers, sums, sizes)
    return Contents(top, versioned(papers[RUN], Path(f"{path}:{RUN}")), manifests, sum(sizes.values()), len(sums))


def _members(path: Path) -> Iterator[tuple[str, tarfile.TarInfo, IO[bytes]]]:
    try:
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                file = tar.extractfile(member) if member.isfile() else None
                if file is None or member.name.startswith("/") or ".." in member.name.split("/"):
                    raise ArtifactError(
                        f"{path}: {member.name} is no plain file in its folder; this is no archive of ours"
                    )
                yield member.name, member, file
    except FileNotFoundError:
        raise ArtifactError(f"{path} is missing") from None
    except (tarfile.TarError, OSError) as e:
        raise _unreadable(path, e) from e


def _unreadable(path: Path, why: Exception) -> ArtifactError:
    return ArtifactError(f"{path} cannot be read as a tar: {why}; copy it again")


def _json(path: Path, name: str, data: bytes) -> Any:
    try:
        found = json.loads(data)
    except (ValueError, RecursionError) as e:
        raise ArtifactError(f"{path}: {name} is no JSON: {e}") from e
    if not isinstance(found, dict):
        raise ArtifactError(f"{path}: {name} is no JSON object")
    return found


def _manifests(
    path: Path, papers: Mapping[str, Any], sums: Mapping[str, str], sizes: Mapping[str, int]
) -> dict[str, dict[str, Any]]:
    """Those of artifacts whose files are in the archive, all of them."""
    there = {"/".join(n.split("/")[1:3]) for n in sums if n.startswith("artifacts/")}
    found = {}
    for ref in sorted(there):
        name = f"stages/{ref}/manifest.json"
        if name not in papers:
            raise ArtifactError(f"{path} has files of {ref} and no {name}")
        manifest = found[ref] = versioned(papers[name], Path(f"{path}:{name}"))
        prefix = f"artifacts/{ref}/out/"
        files = {n.removeprefix(prefix): [sums[n], sizes[n]] for n in sums if n.startswith(prefix)}
        if files != {n: [f["sha256"], f["size"]] for n, f in manifest["files"].items()}:
            raise ArtifactError(f"{path}: the files of {ref} are not those of its manifest")
    return found


def bring_back(path: Path, store: Store, on: On = lambda _: None) -> tuple[Contents, list[Artifact]]:
    """The artifacts of an archive in a store, every file checked, and the run's record. What is there already stays.

    Whatever is interrupted leaves whole artifacts and absent ones; the same call goes on. The record comes last, and
    says of no server: the run told one that another machine has.

    Raises:
        ArtifactError: see `check`; or the disk is too small, or a job makes the same artifact.
    """
    contents = check(path, on)
    store.check_writable()
    free = shutil.disk_usage(store.root).free
    if contents.bytes > free:
        raise ArtifactError(
            f"{path} holds {contents.bytes} bytes, and {store.root} has {free} free; `stepvideo gc` frees"
        )
    desk = store.root / INCOMING / uuid.uuid4().hex[:12]
    try:
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                if member.name.startswith(f"{contents.run}/artifacts/") or member.name.endswith("/events.jsonl"):
                    tar.extract(member, desk, filter="data")
                    on(member.size)
        made = [_settled(desk / contents.run, ref, m, store, path) for ref, m in contents.manifests.items()]
        _record(contents, store)
    except (tarfile.TarError, OSError) as e:
        raise ArtifactError(f"cannot bring {path} into {store.root}: {e}") from e
    finally:
        shutil.rmtree(desk, ignore_errors=True)
    return contents, made


def _settled(desk: Path, ref: str, manifest: dict[str, Any], store: Store, path: Path) -> Artifact:
    made = mirror.settle(manifest, store, str(path), lambda out: os.replace(desk / "artifacts" / ref / "out", out))
    events = desk / "stages" / ref / "events.jsonl"
    if events.exists() and not (made.dir / events.name).exists():
        storage.write_atomic(made.dir / events.name, events.read_bytes())
    return made


def _record(contents: Contents, store: Store) -> None:
    place = store.root / RUNS / contents.run / RUN
    if place.exists():
        return
    data = contents.record
    told = data["config"]["tracking"]
    data["config"]["tracking"] = {**told, "mlflow": False, "prefect": False}
    data |= {"state": KILLED if data["state"] == RUNNING else data["state"], "unarchived": {"tracking": told}}
    data["tracking"] = {**data["tracking"], "flow_closed": True}
    RunRecord(place, data).update()
