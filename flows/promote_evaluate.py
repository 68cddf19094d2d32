"""Champion and challenger on the same prompts and seeds: the challenger's evaluation, again for another model.

An evaluation is a stage like any other: one that is there, with these settings and this code, is taken.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console

from flows import screen
from flows.graph import Node
from flows.lineage import ancestors
from flows.plan import fingerprints, spec_of
from flows.session import session
from stepvideo.artifact import Artifact, Store
from stepvideo.errors import ArtifactError

KIND = "evaluate"
OPTIONAL = (
    "gate"  # the role of an evaluation whose verdict about the oracle is taken over; without it, it is found anew
)


def evaluation_of(store: Store, model: Artifact) -> Artifact | None:
    """The newest evaluation of a model in the store, not verified."""
    found = [a for a in store.artifacts() if a.manifest["kind"] == KIND]
    mine = [a for a in found if a.manifest["inputs"].get("model", {}).get("digest") == model.digest]
    return mine[-1] if mine else None


def evaluate_like(
    like: Artifact, model: Artifact, store: Store, cfg: Mapping[str, Any], overrides: list[str], console: Console
) -> Artifact:
    """`model` evaluated as `like` was: its settings, so its prompts and seeds.

    Args:
        cfg: config of a run: where jobs run, which servers are told. overrides: what made it.

    Raises:
        ArtifactError: what the model was made with, such as its VAE, is no longer in the store.
        StageFailed: the evaluation failed.
    """
    own = evaluation_of(store, model)
    inputs = {"model": model, **_others(like, model, own, store)}
    name = (own or like).manifest["stage"]
    node = Node(name, KIND, dict(like.manifest["config"]), {role: role for role in inputs})
    spec = spec_of(node, inputs, store, fingerprints([node]))
    if there := store.find(name, spec.key):
        return there
    view = screen.Screen(1, console)
    with session(dict(cfg), [node], overrides, None, [view]) as s, view:
        return s.run_node(node, inputs).artifact


def _others(like: Artifact, model: Artifact, own: Artifact | None, store: Store) -> dict[str, Artifact]:
    """The other inputs of an evaluation by role: those of the model's own evaluation, else from its ancestors."""
    behind = {a.manifest["stage"]: a for a in ancestors(store, model)}
    found = {}
    for role, ref in like.manifest["inputs"].items():
        if role == "model":
            continue
        mine = own.manifest["inputs"].get(role) if own else None
        known = store.find(mine["stage"], mine["key"]) if mine else None
        if known is None and ref["stage"] in behind:
            kept = behind[ref["stage"]].manifest
            known = store.find(kept["stage"], kept["key"])
        if known:
            found[role] = known
        elif role != OPTIONAL:
            m = model.manifest
            raise ArtifactError(
                f"{m['stage']}/{m['key']} cannot be evaluated: its {role} ({ref['stage']}) is not in {store.root} or "
                f"damaged; make it again: {m.get('lineage', {}).get('command', 'the `stepvideo run` that made it')}"
            )
    return found
