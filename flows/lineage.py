"""Where an artifact comes from, and how to make it again."""

from __future__ import annotations

from stepvideo.artifact import Artifact, Store
from stepvideo.errors import ArtifactError
from tasks.record import records


def find(store: Store, ref: str) -> Artifact:
    """An artifact by "stage", "stage/key", a path, or "model@alias" of the registry.

    Raises:
        ArtifactError: there is none. StepVideoError: the registry is missing.
    """
    if "@" not in ref:
        return store.resolve(ref)
    from pathlib import Path

    from tasks.environment import set_defaults
    from tasks.registry import Registry, source_of
    from tasks.tracking import Server

    configs = [r.data["config"] for r in records(store) if r.data["config"]["tracking"]["mlflow"]]
    if not configs:
        raise ArtifactError(f"{ref}: no run in {store.root} has reported to MLflow, so there is no registry")
    told = configs[-1]["tracking"]
    set_defaults(configs[-1])
    server = Registry(Server(told, Path(configs[-1]["work"])), told["model_name"]).server
    return store.resolve(str(Path(source_of(server, *ref.split("@", 1))).parent))


def rebuild(artifact: Artifact) -> list[str]:
    """The commands that make it again, from its lineage."""
    lineage = artifact.manifest["lineage"]
    lines = []
    if data := lineage.get("data_md5"):
        lines.append(f"data: data.dvc md5 {data}")
    if lineage.get("git_dirty"):
        lines.append(f"code: {lineage['git_sha'][:12]} with uncommitted changes ({lineage['git_dirty']})")
    steps = [f"git checkout {lineage['git_sha'][:12]}"] if lineage.get("git_sha") else []
    steps += ["dvc checkout"] if data else []
    command = str(lineage.get("command", "stepvideo run")).split(" --until ")[0]
    lines.append("again: " + " && ".join([*steps, f"{command} --until {artifact.manifest['stage']}"]))
    return lines


def ancestors(store: Store, artifact: Artifact) -> list[Artifact]:
    """Every artifact behind one, nearest first, each once."""
    found: dict[tuple[str, str], Artifact] = {}
    todo = [artifact]
    while todo:
        for ref in todo.pop(0).manifest["inputs"].values():
            source = store.find(ref["stage"], ref["key"], verify=False)
            if source and (ref["stage"], ref["key"]) not in found:
                found[ref["stage"], ref["key"]] = source
                todo.append(source)
    return list(found.values())
