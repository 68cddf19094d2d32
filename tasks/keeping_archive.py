"""A run as one tar: its record, the papers of its stages, and the artifacts that are chosen.

    ID/README.md
    ID/run.json                         the record: settings, stages, times
    ID/metrics.json                     the last metrics of every stage
    ID/stages/STAGE/KEY/…               manifest, spec, ledger, events (metrics of every step), error
    ID/pages/STAGE/…                    HTML pages that the run made
    ID/artifacts/STAGE/KEY/out/…        files of the chosen artifacts, as their manifest lists them
    ID/SHA256SUMS                       of all of these, for `sha256sum -c`; the last member, so a cut file is known

Equal content gives equal bytes: names in order, no times, owners or modes of this machine.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import tarfile
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

from stepvideo import storage
from stepvideo.artifact import Artifact, Store
from stepvideo.errors import ArtifactError
from tasks.keeping_named import without_password
from tasks.record import DONE, RunRecord

SUMS, RUN = "SHA256SUMS", "run.json"
PAPERS = ("manifest.json", "spec.json", "ledger.json", "events.jsonl", "error.json")
PAGES = ("report", "sheet")  # kinds whose artifact is a page
MODELS = ("train", "vae", "text", "average", "dpo", "turbo", "reward", "shipped", "given")
VIDEOS = ("evaluate", "pairs", "ranked")
On = Callable[[int], None]  # bytes that were read


def chosen(store: Store, record: RunRecord, wanted: Sequence[str]) -> list[Artifact]:
    """The artifacts of a run that `wanted` names: models, videos, all, or stages.

    Raises:
        ArtifactError: one of them is none of these, or a stage has no artifact.
    """
    kinds = {n["name"]: n["kind"] for n in record.data["nodes"]}
    names: set[str] = set()
    for want in wanted:
        group = {"models": MODELS, "videos": VIDEOS}.get(want, ())
        of_it = {n for n, kind in kinds.items() if want in ("all", n) or kind in group or n.startswith(f"{want}.")}
        if not of_it and want not in ("models", "videos"):
            raise ArtifactError(f"--with {want!r}: give models, videos, all, or stages: {', '.join(kinds)}")
        names |= of_it & set(record.refs) if want in ("models", "videos", "all") else of_it
    found = []
    for name in sorted(names):
        artifact = store.find(name, record.refs.get(name, "-"), verify=False)
        if artifact is None and (name in wanted or record.data["state"] == DONE):
            raise ArtifactError(f"{name} of run {record.data['id']} has no artifact in {store.root}; run it again")
        found += [artifact] if artifact else []
    return found


def write(store: Store, record: RunRecord, artifacts: Sequence[Artifact], target: Path, on: On) -> str:
    """Write the archive, whole or not at all; its sha256.

    Raises:
        ArtifactError: a file of an artifact is not as its manifest says, or the archive cannot be written.
    """
    tmp = target.with_name(f".{target.name}.tmp-{uuid.uuid4().hex[:8]}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tmp.open("wb") as raw:
            with tarfile.open(fileobj=raw, mode="w", format=tarfile.GNU_FORMAT) as tar:
                out = _Out(tar, record.data["id"], on)
                for name, data in _papers(store, record, artifacts):
                    out.add(name, io.BytesIO(data), len(data))
                for artifact in artifacts:
                    for name, expected in sorted(artifact.manifest["files"].items()):
                        place = f"artifacts/{artifact.manifest['stage']}/{artifact.manifest['key']}/out/{name}"
                        with (artifact.out / name).open("rb") as file:
                            size = os.fstat(file.fileno()).st_size
                            if size != expected["size"] or out.add(place, file, size) != expected["sha256"]:
                                raise ArtifactError(f"{artifact.out / name} is damaged; run its stage again")
                sums = "".join(f"{sha}  {name}\n" for name, sha in sorted(out.sums.items()))
                out.add(SUMS, io.BytesIO(sums.encode()), len(sums.encode()))
            raw.flush()
            os.fsync(raw.fileno())
        digest = storage.sha256_file(tmp)
        os.replace(tmp, target)
    except OSError as e:
        raise ArtifactError(f"cannot write {target}: {e.strerror or e}; free space or give another --out") from e
    finally:
        tmp.unlink(missing_ok=True)
    return digest


class _Out:
    def __init__(self, tar: tarfile.TarFile, top: str, on: On) -> None:
        self._tar, self._top, self._on = tar, top, on
        self.sums: dict[str, str] = {}

    def add(self, name: str, file: IO[bytes], size: int) -> str:
        """Add one file; its sha256."""
        info = tarfile.TarInfo(f"{self._top}/{name}")
        info.size = size
        hashed = Hashed(file, self._on)
        self._tar.addfile(info, hashed)  # type: ignore[arg-type]
        self.sums[name] = hashed.sha256
        return hashed.sha256


class Hashed:
    """A file that is hashed while it is read."""

    def __init__(self, file: IO[bytes], on: On) -> None:
        self._file, self._on, self._hash = file, on, hashlib.sha256()

    def read(self, size: int = -1) -> bytes:
        data = self._file.read(size)
        self._hash.update(data)
        self._on(len(data))
        return data

    @property
    def sha256(self) -> str:
        return self._hash.hexdigest()


def _papers(store: Store, record: RunRecord, artifacts: Sequence[Artifact]) -> Iterator[tuple[str, bytes]]:
    def text(data: Any) -> bytes:
        return (json.dumps(data, indent=1, ensure_ascii=False, sort_keys=True) + "\n").encode()

    refs = sorted(record.refs.items())
    found = {name: store.find(name, key, verify=False) for name, key in refs}
    yield "README.md", _readme(record, artifacts).encode()
    yield RUN, without_password(text(record.data).decode()).encode()
    yield "metrics.json", text({name: dict(a.metrics) for name, a in found.items() if a})
    for name, key in refs:
        for paper in PAPERS:
            with contextlib.suppress(FileNotFoundError):
                said = (store.dir(name, key) / paper).read_text("utf-8", errors="replace")
                yield f"stages/{name}/{key}/{paper}", without_password(said).encode()
    for name, artifact in found.items():
        if artifact and artifact.manifest["kind"] in PAGES:
            for path in sorted(artifact.out.glob("*.html")):
                yield f"pages/{name}/{path.name}", path.read_bytes()


def _readme(record: RunRecord, artifacts: Sequence[Artifact]) -> str:
    data = record.data
    command = " ".join(["stepvideo run", *data["overrides"], *(["--until", data["until"]] if data["until"] else [])])
    rows = "\n".join(f"| {n} | {s.get('key', '')} | {s.get('state', '')} |" for n, s in data["stages"].items())
    held = "\n".join(f"- {a.manifest['stage']}/{a.manifest['key']}" for a in artifacts) or "- none"
    return (
        f"# Run {data['id']} of stepvideo ({data['config'].get('name', '')})\n\n"
        f"It ended as: {data['state']}. It was started with `{without_password(command)}`.\n\n"
        "| file | what it is |\n|---|---|\n"
        "| run.json | settings, stages and times of the run |\n"
        "| metrics.json | the last metrics of every stage |\n"
        "| stages/STAGE/KEY/ | what each stage was made from and with, and its metrics step by step |\n"
        "| pages/ | pages to look at |\n| artifacts/STAGE/KEY/out/ | files of the artifacts that are in here |\n\n"
        "Check it: `sha256sum -c SHA256SUMS` in this folder, or `stepvideo archive --check FILE.tar`.\n"
        "Bring the artifacts into a store: `stepvideo unarchive FILE.tar --store DIR`.\n\n"
        f"## Artifacts in here\n\n{held}\n\n## Stages\n\n| stage | key | |\n|---|---|---|\n{rows}\n"
    )
