"""`stepvideo generate`: find the newest model and what decodes it, then hand over to the library."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flows.lineage import find
from flows.status import store_of
from stepvideo.artifact import Artifact, Store
from stepvideo.errors import ArtifactError

NEWEST_FIRST = ("turbo", "dpo", "average", "sft.1", "t2vi_540.s6", "t2vi_192.s3", "t2i")


def generate_command(folder: str | None, prompt: str, out: Path, model: str, settings: Mapping[str, Any]) -> int:
    """Generate a video with the most refined model of the store, or the one that `model` refers to."""
    store = store_of(folder)
    artifact = find(store, model) if model else _best(store)
    vae, text = (_behind(store, artifact, role) for role in ("vae", "text"))
    name = f"{artifact.manifest['stage']}/{artifact.manifest['key'][:8]}"
    print(f"model {name}, vae {vae.manifest['stage']}, text {text.manifest['stage']}")
    from stepvideo.inference.generate import generate

    generate(prompt, out, artifact.out, vae.out, text.out, **settings)
    return 0


def _best(store: Store) -> Artifact:
    for stage in NEWEST_FIRST:
        if any(store.root.glob(f"{stage}/*/manifest.json")):
            return store.resolve(stage)
    raise ArtifactError(f"there is no trained model in {store.root} yet; `stepvideo run` trains one (or give --model)")


def _behind(store: Store, artifact: Artifact, role: str) -> Artifact:
    """The nearest artifact that served as `role` to the model or to what it was made from."""
    todo, seen = [artifact], set()
    while todo:
        inputs = todo.pop(0).manifest["inputs"]
        if role in inputs and (found := store.find(inputs[role]["stage"], inputs[role]["key"])):
            return found
        for ref in inputs.values():
            if (ref["stage"], ref["key"]) not in seen:
                seen.add((ref["stage"], ref["key"]))
                if source := store.find(ref["stage"], ref["key"], verify=False):
                    todo.append(source)
    raise ArtifactError(f"{artifact.manifest['stage']} has no {role} behind it in {store.root}; was it removed?")
