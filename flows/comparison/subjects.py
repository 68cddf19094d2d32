"""What is compared: runs by their records, artifacts by their manifests, with the stages that belong to them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from flows.lineage import ancestors, find
from stepvideo import storage
from stepvideo.artifact import Artifact, Store
from stepvideo.errors import ArtifactError
from tasks.record import RunRecord, records

Aligned = dict[str, list[Artifact | None]]
"""Stage: its artifact of every subject, in their order."""


@dataclass(frozen=True)
class Gap:
    """What could not be compared: metrics | curves | videos | …, of which stage, and why."""

    what: str
    of: str
    why: str


def in_words(gaps: Sequence[Gap]) -> list[str]:
    """One line for every reason."""
    of: dict[tuple[str, str], list[str]] = {}
    for g in gaps:
        of.setdefault((g.what, g.why), []).append(g.of)
    return [f"{what} of {', '.join(dict.fromkeys(names))}: {why}" for (what, why), names in of.items()]


@dataclass(frozen=True)
class Subject:
    """One run, or one artifact with all that it comes from.

    Attributes:
        name: short, for the head of a column.
        about: a line that says what it is.
        config: what it was told to do.
        stages: inputs before users.
        absent: stage of a run that has no artifact: why.
    """

    name: str
    about: str
    config: Mapping[str, Any]
    stages: dict[str, Artifact]
    own: Artifact | None = None
    record: RunRecord | None = None
    absent: dict[str, str] = field(default_factory=dict)


def subjects(store: Store, refs: Sequence[str]) -> list[Subject]:
    """Each by a run's id, a prefix or the last six digits of it, "latest", "latest~1", or as `flows.lineage.find`.

    Raises:
        ArtifactError: nothing, or more than one run, is called so.
    """
    known = records(store)
    return [
        _of_run(store, run) if (run := _run(known, r, store)) else _of_artifact(store, find(store, r)) for r in refs
    ]


def aligned(compared: Sequence[Subject]) -> Aligned:
    """Every stage that a subject has. Artifacts of several names are also put beside each other, as "a / b"."""
    names = list(dict.fromkeys(n for s in compared for n in s.stages))
    rows: Aligned = {n: [s.stages.get(n) for s in compared] for n in names}
    own = [s.own for s in compared]
    if all(own) and (called := own_name(compared)) not in rows:
        rows[called] = own
    return rows


def own_name(compared: Sequence[Subject]) -> str:
    return " / ".join(dict.fromkeys(s.own.manifest["stage"] for s in compared if s.own))


def evaluations(store: Store, compared: Sequence[Subject], rows: Aligned) -> Aligned:
    """The evaluations of runs by their stages; of artifacts the one that each is, or the newest of it in the store."""
    if not all(s.own for s in compared):
        return {n: found for n, found in rows.items() if any(a and a.manifest["kind"] == "evaluate" for a in found)}
    found = [evaluation_of(store, s.own) for s in compared if s.own]
    return {f"evaluation of {own_name(compared)}": found} if any(found) else {}


def evaluation_of(store: Store, own: Artifact) -> Artifact | None:
    """The artifact itself if it is an evaluation, else the newest one of it in the store."""
    if own.manifest["kind"] == "evaluate":
        return own
    made = []
    for path in store.root.glob("*/*/spec.json"):
        spec = storage.read_json(path)
        model = spec["inputs"].get("model", {})
        if spec["kind"] == "evaluate" and model.get("key") == own.manifest["key"]:
            made.append(store.find(spec["stage"], spec["key"], verify=False))
    return max(filter(None, made), key=lambda a: a.manifest["finished"], default=None)


def _run(known: Sequence[RunRecord], ref: str, store: Store) -> RunRecord | None:
    if back := re.fullmatch(r"latest(?:~(\d+))?", ref):
        n = int(back[1] or 0)
        if n >= len(known):
            raise ArtifactError(f"{ref}: {store.root} has {len(known)} runs; `stepvideo run` makes one")
        return known[-1 - n]
    if len(ref) < 4 or "/" in ref or "@" in ref:
        return None
    found = [r for r in known if r.data["id"].startswith(ref) or r.data["id"].endswith(f"-{ref}")]
    if len(found) > 1:
        raise ArtifactError(f"run {ref!r} is ambiguous: {', '.join(r.data['id'] for r in found)}")
    return found[0] if found else None


def _of_run(store: Store, record: RunRecord) -> Subject:
    data = record.data
    stages, absent = {}, {}
    for node in data["nodes"]:
        name = node["name"]
        said = data["stages"].get(name, {})
        artifact = store.find(name, said["key"], verify=False) if said.get("key") else None
        if artifact:
            stages[name] = artifact
        else:
            absent[name] = {"": "it never began", "complete": "it is no longer in the store"}.get(
                said.get("state", ""), f"it is {said.get('state')}"
            )
    about = f"run {data['id']} ({data['config']['name']}, {data['state']}): {' '.join(data['overrides'])}"
    return Subject(data["id"].rpartition("-")[2], about, data["config"], stages, None, record, absent)


def _of_artifact(store: Store, artifact: Artifact) -> Subject:
    m = artifact.manifest
    behind = {a.manifest["stage"]: a for a in reversed(ancestors(store, artifact))}
    name = f"{m['stage']}/{m['key'][:8]}"
    return Subject(name, f"artifact {m['stage']}/{m['key']}", m["config"], behind | {m["stage"]: artifact}, artifact)
