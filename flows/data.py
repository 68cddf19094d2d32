"""`stepvideo data publish` and `stepvideo data checkout`: artifacts to a bucket or to DVC, and back."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flows.compose import ROOT
from flows.data_event import announce
from flows.lineage import ancestors, find, rebuild
from flows.status import store_of
from stepvideo import mirror
from stepvideo.artifact import Artifact, Store
from stepvideo.errors import ArtifactError, ConfigError, StepVideoError
from tasks import versions

DATA_KINDS = ("raw", "render", "curate", "tags", "concepts", "captions", "labels", "subsets", "shards")


def publish_command(
    folder: str | None,
    refs: list[str],
    url: str | None,
    name: str | None,
    message: str = "",
    force: str = "",
    as_json: bool = False,
) -> int:
    """Copy artifacts below a URL, or give them to DVC as a version; where they are then, and what to do next."""
    if url and (message or force or as_json):
        raise StepVideoError("-m, --force and --json belong to a version; leave them out with --to, which only copies")
    store = store_of(folder)
    found = [find(store, ref) for ref in refs] or present(store)
    if url:
        for artifact in found:
            print(mirror.publish(artifact, url), flush=True)
        return 0
    line = ["stepvideo", "data", "publish", *refs, *(["--name", name] if name else [])]
    line += [*(["-m", message] if message else []), *(["--force", force] if force else [])]
    version = versions.record(found, name, ROOT, message=message, force=force, command=shlex.join(line), say=said)
    notes = announce(version, store)
    if as_json:
        print(
            json.dumps({"name": version.name, "new": version.new, "digest": version.digest, **version.meta}, indent=1)
        )
        return 0
    path = version.path.relative_to(ROOT) if version.path.is_relative_to(ROOT) else version.path
    if version.new:
        print(f"{path}: {in_words(version.meta)}")
    else:
        print(f"{path} is this content already; nothing is published twice")
    for note in notes:
        print(note)
    parent = version.meta.get("parent")
    print(
        f"next: git add {path} {path.parent}/.gitignore && git commit | stepvideo data checkout {version.name}"
        + (f" | stepvideo data diff {parent} {version.name}" if parent else "")
    )
    return 0


def checkout_command(folder: str | None, what: str) -> int:
    """Bring the artifacts of a version, or the one at a URL, into the store; every file is checked."""
    store = Store(folder or ROOT / "runs" / "store")  # which may be a new one
    if "/" in what:
        print(mirror.restore(what, store).dir)
        return 0
    back = versions.bring_back(what, ROOT, store, said)
    for artifact in back:
        print(artifact.dir)
    for line in again(back, store):
        print(line)
    return 0


def present(store: Store) -> list[Artifact]:
    """The data of a store as they are now: the newest subsets with all that they come from, or the newest catalog.

    Raises ArtifactError if nothing was curated there.
    """
    made = [a for a in store.artifacts() if a.manifest.get("kind") in DATA_KINDS]
    last = next((a for kind in ("subsets", "curate") for a in reversed(made) if a.manifest["kind"] == kind), None)
    if last is None:
        raise ArtifactError(
            f"{store.root} has no catalog and no subsets; `stepvideo curate` makes them, or name artifacts"
        )
    behind = [a for a in ancestors(store, last) if a.manifest["kind"] in DATA_KINDS]
    known = {a.digest for a in behind} | {last.digest}
    also = [
        a
        for a in made
        if a.manifest["kind"] == "shards" and {r["digest"] for r in a.manifest["inputs"].values()} <= known
    ]
    return sorted([*behind, last, *also[-1:]], key=lambda a: a.manifest["finished"])


def again(back: list[Artifact], store: Store) -> list[str]:
    """What to type so that a run takes the artifacts as they are; where the code here is another, which it was."""
    made = [a for a in back if a.manifest.get("lineage", {}).get("command")]
    if not made:
        return []
    other = [a.manifest["stage"] for a in made if not _same_code(a.manifest)]
    last = made[-1]
    lines = rebuild(last)
    command = lines[-1].rsplit(" && ", 1)[-1].removeprefix("again: ").split(" --until ")[0]
    raws = [a for a in back if a.manifest.get("kind") == "raw"]
    for a in raws:  # the folder that it came from need not be on this machine
        given = str(a.manifest["config"].get("runtime", {}).get("path", ""))
        if given and not Path(given).exists() and (a.out / "files").is_dir():
            command = command.replace(f"raw={given}", f"raw={a.out / 'files'}")
    if other:
        sha = last.manifest["lineage"].get("git_sha", "")[:12]
        return [f"the code of {', '.join(other)} here is not that which made them, so a run would make them again"] + [
            f"next: git checkout {sha or 'the commit that made them'} && {command}"
        ]
    return [f"next: {command}"]


def _same_code(manifest: Mapping[str, Any]) -> bool:
    from stepvideo.fingerprint import fingerprint
    from stepvideo.stage import kind

    try:
        return fingerprint(kind(manifest["kind"]).run.split(":")[0]) == manifest["fingerprint"]
    except ConfigError:  # a kind that is not known here
        return False


def in_words(meta: Mapping[str, Any]) -> str:
    """A version in a line: clips, hours, verdict of the gate."""
    counts, gate = meta.get("counts") or {}, meta.get("gate") or {}
    parts = [f"{counts['clips']} clips, {counts['hours']:.2f} h"] if "clips" in counts else []
    parts += [f"{counts['s1']} in s1, {counts['s6']} in s6"] if "s1" in counts else []
    return ", ".join([*parts, f"gate {verdict(gate)}", f"parent {meta.get('parent') or 'none'}"])


def verdict(gate: Mapping[str, Any]) -> str:
    """passed, passed (3 warnings), FORCED (why), or none."""
    if gate.get("passed") is None:
        return "none"
    if not gate["passed"]:
        return f"FORCED ({gate.get('forced', '')})"
    return f"passed ({gate['warnings']} warnings)" if gate.get("warnings") else "passed"


def said(line: str) -> None:
    """Progress, where it is in nobody's way."""
    print(line, file=sys.stderr, flush=True)
