"""What a run would do: for every stage HIT, RUN with the reason, or "depends on" stages whose results are not known.

Imports no torch, MLflow or Prefect.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from flows.graph import Node
from stepvideo.artifact import Artifact, Store, is_running, key_of
from stepvideo.config import canonical, result_part
from stepvideo.fingerprint import fingerprint
from stepvideo.stage import InputRef, StageSpec, kind

HIT, RUN, RUNNING, DEPENDS = "hit", "run", "running", "depends"
MAX_CHANGES = 3  # named in a reason


@dataclass(frozen=True)
class Step:
    """One line of a plan. `key` is empty while the digests of the inputs are not known."""

    node: Node
    state: str  # hit | run | running | depends
    why: str = ""
    key: str = ""
    artifact: Artifact | None = None


def fingerprints(nodes: Iterable[Node]) -> dict[str, str]:
    """{kind: fingerprint of its code}, all taken at one moment."""
    return {k: fingerprint(kind(k).run.split(":")[0]) for k in sorted({n.kind for n in nodes})}


def spec_of(
    node: Node,
    inputs: Mapping[str, Artifact],
    store: Store,
    code: Mapping[str, str],
    lineage: Mapping[str, Any] | None = None,
) -> StageSpec:
    """The spec of a node whose inputs (by the name of their stage) are known; its key is set."""
    refs = {}
    for role, name in node.inputs.items():
        artifact = inputs[name]
        refs[role] = InputRef(artifact.manifest["stage"], artifact.manifest["key"], artifact.digest)
    config = {**node.config, "lineage": canonical(ancestry(refs, store))} if node.lineage else node.config
    spec = StageSpec(node.name, node.kind, "", config, refs, str(store.root), code[node.kind], dict(lineage or {}))
    spec.key = key_of(spec.hashed())
    return spec


def ancestry(refs: Mapping[str, InputRef], store: Store) -> list[dict[str, Any]]:
    """Every artifact behind `refs`, once, by name: [{stage, key, digest, inputs: [stage, …]}, …]."""
    found: dict[tuple[str, str], dict[str, Any]] = {}
    todo = list(refs.values())
    while todo:
        ref = todo.pop()
        if (ref.stage, ref.key) in found:
            continue
        artifact = store.find(ref.stage, ref.key, verify=False)
        behind = [InputRef(**r) for r in artifact.manifest["inputs"].values()] if artifact else []
        about = {"stage": ref.stage, "key": ref.key, "digest": ref.digest}
        found[ref.stage, ref.key] = {**about, "inputs": sorted({r.stage for r in behind})}
        todo += behind
    return [found[k] for k in sorted(found)]


def plan(nodes: list[Node], store: Store, code: Mapping[str, str] | None = None) -> list[Step]:
    """One step a node, in the nodes' order. Hits are verified: every file is hashed."""
    code = fingerprints(nodes) if code is None else code
    steps: dict[str, Step] = {}
    for node in nodes:
        sources = [steps[s] for s in dict.fromkeys(node.inputs.values())]
        if unknown := [s.node.name for s in sources if s.artifact is None]:
            more = f" and {len(unknown) - 2} more" if len(unknown) > 2 else ""
            steps[node.name] = Step(node, DEPENDS, f"depends on {', '.join(unknown[:2])}{more}")
            continue
        spec = spec_of(node, {s.node.name: s.artifact for s in sources if s.artifact}, store, code)
        artifact = store.find(node.name, spec.key)
        if artifact:
            steps[node.name] = Step(node, HIT, "", spec.key, artifact)
        elif is_running(store.dir(node.name, spec.key)):
            steps[node.name] = Step(node, RUNNING, "a job is at it", spec.key)
        else:
            steps[node.name] = Step(node, RUN, why(spec, store), spec.key)
    return list(steps.values())


def plan_rows(steps: list[Step]) -> list[dict[str, str]]:
    """A plan as JSON-able rows."""
    return [{"stage": s.node.name, "kind": s.node.kind, "state": s.state, "why": s.why, "key": s.key} for s in steps]


def why(spec: StageSpec, store: Store) -> str:
    """Why there is no hit: what is damaged, what was begun, or what differs from the newest artifact of the stage."""
    reason = store.why_not(spec.stage, spec.key)
    if reason == "incomplete":
        return "begun, not finished"
    if reason != "absent":
        return f"damaged: {reason}"
    others = [a for a in store.artifacts() if a.manifest["stage"] == spec.stage]
    if not others:
        return "not made yet"
    return "; ".join(differences(others[-1].manifest, spec.hashed())) or "not made yet"


def differences(manifest: Mapping[str, Any], hashed: Mapping[str, Any]) -> list[str]:
    """What differs between a made artifact and a spec (`StageSpec.hashed()`), in words."""
    found = config_changes(result_part(manifest["config"]), hashed["config"])
    if len(found) > MAX_CHANGES:
        found = [*found[:MAX_CHANGES], f"{len(found) - MAX_CHANGES} more settings"]
    before = {role: ref["digest"] for role, ref in manifest["inputs"].items()}
    after = hashed["inputs"]
    found += [f"input {role} changed" for role in after if role in before and before[role] != after[role]]
    found += [f"input {role} is new" for role in after if role not in before]
    found += [f"input {role} is gone" for role in before if role not in after]
    if manifest["fingerprint"] != hashed["code"]:
        found.append("code changed")
    if manifest["kind"] != hashed["kind"]:
        found.append(f"kind {manifest['kind']} → {hashed['kind']}")
    return found


def config_changes(before: Any, after: Any, path: str = "") -> list[str]:
    """["lr 0.1 → 0.2", …] between two plain configs, by dotted key."""
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        return [
            change
            for key in dict.fromkeys([*before, *after])
            for change in config_changes(before.get(key), after.get(key), f"{path}.{key}" if path else str(key))
        ]
    return [] if before == after else [f"{path} {_short(before)} → {_short(after)}"]


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 40 else f"{text[:37]}…"
