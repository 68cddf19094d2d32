"""Versions of curated data: artifacts under a name, kept by DVC (`data_version` says which data a run is made with).

versions/NAME.dvc    a few lines to commit: the hash of what lies in DVC's remote, and in its `meta` who published what
                     when, from which version, with which verdict of the gate

What is versioned is a store, STAGE/KEY/{manifest.json, out/…, FOLDER-00000.tar}, with `_about/` (`version_report`).
"""

from __future__ import annotations

import getpass
import json
import re
import shutil
import textwrap
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stepvideo import mirror, storage
from stepvideo.artifact import Artifact, Store, lock
from stepvideo.config import digest
from stepvideo.errors import ArtifactError
from tasks import version_report
from tasks.data_version import git, lineage
from tasks.gatekeeper import DOCS
from tasks.version_dvc import Depot, md5_in
from tasks.version_pack import pack, unpack

VERSIONS = "versions"
DESK = ".publishing"


@dataclass(frozen=True)
class Version:
    """One version, as its .dvc file has it.

    `meta`: name, parent, time (epoch, s), who, message, command, content, artifacts {stage: {key, digest, kind}},
    counts, gate, and the lineage; empty where DVC alone made the file.
    """

    name: str
    path: Path  # of the .dvc file
    md5: str  # of the list of its files
    size: int = 0  # bytes
    files: int = 0
    meta: Mapping[str, Any] = field(default_factory=dict)
    new: bool = False  # published by this call

    @property
    def digest(self) -> str:
        """Names the content: the same artifacts under the same keys."""
        return str(self.meta.get("content") or self.md5)

    @property
    def time(self) -> float:
        return float(self.meta.get("time") or 0.0)


def every(root: Path) -> list[Version]:
    """The versions of a checkout, oldest first. Raises ArtifactError for a .dvc file that cannot be read."""
    return sorted((_read(p) for p in (root / VERSIONS).glob("*.dvc")), key=lambda v: (v.time, _natural(v.name)))


def named(name: str, root: Path) -> Version:
    """Raises ArtifactError if there is no such version; says how a deleted one comes back."""
    path = root / VERSIONS / f"{name}.dvc"
    if re.fullmatch(r"\w[\w.-]*", name) and path.exists():
        return _read(path)
    there = ", ".join(sorted((p.stem for p in (root / VERSIONS).glob("*.dvc")), key=_natural)) or "none"
    said = f"no version {name!r} in {root / VERSIONS}; there are: {there}"
    place = f"{VERSIONS}/{name}.dvc"
    if last := (git(root, "log", "--all", "-1", "--format=%h", "--diff-filter=D", "--", place) or "").strip():
        said += f". It was deleted in commit {last}: `git checkout {last}^ -- {place}` brings it back"
    elif (git(root, "ls-files", "--", place) or "").strip():
        said += f". Its file was removed: `git checkout -- {place}` brings it back"
    raise ArtifactError(said)


def next_name(root: Path) -> str:
    """v1, v2, …: one more than the highest there is."""
    numbers = [int(m[1]) for p in (root / VERSIONS).glob("*.dvc") if (m := re.fullmatch(r"v(\d+)", p.stem))]
    return f"v{max(numbers, default=0) + 1}"


def record(
    artifacts: Sequence[Artifact],
    name: str | None,
    root: Path,
    *,
    message: str = "",
    force: str = "",
    command: str = "",
    say: Callable[[str], None] = lambda _: None,
) -> Version:
    """Give artifacts to DVC as a version that never changes: `versions/NAME.dvc`, to be committed.

    It goes to the default remote of the checkout; the .dvc file appears when all of it is there, so an interrupted call
    leaves the other versions as they were and this one absent. Content that is a version already is not published
    again: that version is returned, with `new` false, and objects that its remote lost are sent once more.

    Args:
        name: None: the next of v1, v2, …
        root: the checkout.
        force: why the version is published although its gate failed.
        say: told what happens.

    Raises:
        ArtifactError: the name is taken or cannot be one, the gate failed, an artifact is damaged, another process
            publishes, or the remote cannot take it.
    """
    if name is not None and not re.fullmatch(r"\w[\w.-]*", name):
        raise ArtifactError(f"a version cannot be called {name!r}; use letters, digits, dots, - and _")
    with Depot(root, name or "NAME") as depot, lock(root / ".dvc" / "tmp" / "versions") as mine:
        if not mine:
            raise ArtifactError(f"another process publishes a version in {root}; wait for it")
        name = name or next_name(root)
        target = root / VERSIONS / f"{name}.dvc"
        before = every(root)
        made = {a.manifest["stage"]: _about(a) for a in artifacts}
        if len(made) < len(artifacts):
            raise ArtifactError("two of the artifacts are of one stage; a version has one of each")
        content = digest({stage: [a["key"], a["digest"]] for stage, a in made.items()})[:16]
        same = next((v for v in before if v.meta.get("content") == content), None)
        if target.exists() and (same is None or same.name != name):
            raise ArtifactError(f"version {name} is there ({target}) and versions do not change; choose another name")
        verdict = version_report.judge(artifacts, say)
        if verdict["passed"] is False and not force and not same:
            found = "\n  ".join(verdict["findings"])
            raise ArtifactError(
                f"not published: the data gate fails {verdict['failed']} critical expectation(s):\n  {found}\n"
                "mend the data and run again, or give --force 'WHY', which is recorded"
            )
        depot.check_remote(write=True)
        storage.write_atomic(root / VERSIONS / ".gitignore", f"/*/\n!/{DESK}/\n")
        desk = _empty(root / VERSIONS / DESK)
        try:
            numbers = version_report.counts(artifacts)
            for each in artifacts:
                say(f"packing {each.manifest['stage']}")
                pack(each, desk / name)
            version_report.write_about(artifacts, verdict, numbers, desk / name)
            say("hashing")
            text = depot.add(desk, name)
            oid = same.md5 if same else md5_in(text)
            oids = [*depot.files(oid).values(), oid]
            say(f"sending to {depot.url}")
            sent = depot.send(oids)
            if same:
                say(f"{sent} objects that the remote lacked were sent again" if sent else "the remote has all of it")
                return same
            about = {"name": name, "parent": before[-1].name if before else None, "time": round(time.time(), 3)}
            about |= {"who": _who(root), "message": message, "command": command, "content": content}
            gate = {k: verdict[k] for k in ("passed", "warnings", "failed")}
            if verdict["passed"] is False:
                gate |= {"forced": force, "findings": verdict["findings"][: version_report.SHOWN]}
            about |= {"counts": numbers, "gate": gate, "artifacts": made, **lineage(root)}
            said = textwrap.indent(json.dumps(about, indent=1, ensure_ascii=False), "  ")  # JSON is YAML
            storage.write_atomic(target, f"{text}meta:\n{said}\n")
        finally:
            shutil.rmtree(desk, ignore_errors=True)
        done = _read(target)
        return Version(done.name, done.path, done.md5, done.size, done.files, done.meta, new=True)


def bring_back(name: str, root: Path, store: Store, say: Callable[[str], None] = lambda _: None) -> list[Artifact]:
    """The artifacts of a version in a store, every file checked; what the store has already is not fetched.

    Raises:
        ArtifactError: there is no such version, or the remote cannot give it whole. The store is as it was, but for
            artifacts that came whole.
    """
    version = named(name, root)
    with Depot(root, name) as depot:
        files = depot.files(version.md5)
        folders = sorted({p.rsplit("/", 1)[0] for p in files if p.count("/") == 2 and p.endswith(mirror.MANIFEST)})
        back = []
        for folder in folders:
            own = {p.removeprefix(f"{folder}/"): oid for p, oid in files.items() if p.startswith(f"{folder}/")}
            stage, key = folder.split("/")
            found = store.find(stage, key)
            if found is None:
                say(f"fetching {folder}")
                depot.fetch(own.values())
                paths = {n: Path(depot.cache.oid_to_path(oid)) for n, oid in own.items()}
                found = unpack(paths, store, f"version {name}, {folder}")
            back.append(found)
            gate = f"{version_report.ABOUT}/gate/{stage}/"
            docs = {p.removeprefix(gate): oid for p, oid in files.items() if p.startswith(gate)}
            if not (found.dir / DOCS).exists():
                depot.fetch(docs.values())
                for n, oid in docs.items():
                    storage.write_atomic(found.dir / DOCS / n, Path(depot.cache.oid_to_path(oid)).read_bytes())
        return back


def _about(artifact: Artifact) -> dict[str, str]:
    return {"key": artifact.manifest["key"], "digest": artifact.digest, "kind": artifact.manifest.get("kind", "")}


def _read(path: Path) -> Version:
    import yaml

    try:
        said = yaml.safe_load(path.read_text(encoding="utf-8"))
        out = said["outs"][0]
        meta = said.get("meta") or {}
        return Version(path.stem, path, out["md5"], out.get("size", 0), out.get("nfiles", 0), meta)
    except (OSError, yaml.YAMLError, KeyError, IndexError, TypeError, AttributeError) as e:
        fix = f"`git checkout -- {VERSIONS}/{path.name}` brings the committed one back"
        raise ArtifactError(f"{path} is no version: {' '.join(str(e).split()) or type(e).__name__}; {fix}") from e


def _who(root: Path) -> str:
    name = (git(root, "config", "user.name") or "").strip()
    if name:
        return name
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name
        return "unknown"


def _natural(name: str) -> list[Any]:
    """v10 after v9."""
    return [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in re.split(r"(\d+)", name)]


def _empty(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder
