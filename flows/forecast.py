"""Which keys the stages of a run will have, as far as that is known without running them, and nothing is hashed."""

from __future__ import annotations

from collections.abc import Iterator

from flows.graph import Node
from flows.plan import fingerprints, spec_of
from stepvideo.artifact import Artifact, Store


def expected(nodes: list[Node], store: Store) -> Iterator[tuple[Node, str, Artifact | None]]:
    """(node, key, artifact) in the nodes' order; no key while an input is not made, no artifact where there is none.

    Artifacts are believed, not verified.
    """
    code = fingerprints(nodes)
    made: dict[str, Artifact] = {}
    for node in nodes:
        if any(source not in made for source in node.inputs.values()):
            yield node, "", None
            continue
        key = spec_of(node, made, store, code).key
        artifact = store.find(node.name, key, verify=False)
        if artifact:
            made[node.name] = artifact
        yield node, key, artifact
