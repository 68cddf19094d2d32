"""MLflow's model registry: versions by reference (a path in the store), promotion by alias."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from stepvideo.artifact import Artifact
from stepvideo.errors import ArtifactError, StepVideoError
from tasks.tracking import Server

CANDIDATE = "candidate"
REFERENCE = "model.json"  # in the run that made it: where the files are


def register(server: Server, name: str, artifact: Artifact, run_id: str, lineage: Mapping[str, Any]) -> int:
    """Make `artifact` a version of the model `name` with the alias `candidate`; returns the version.

    The files stay where they are: the tag `path` names them. The same content again is the same version.

    Raises:
        StepVideoError: the registry refused.
    """
    from mlflow.exceptions import MlflowException

    try:
        return _register(server, name, artifact, run_id, lineage)
    except (MlflowException, OSError) as e:  # of its artifacts it says what requests says
        raise StepVideoError(f"cannot register {artifact.out} as {name} at {server.uri}: {e}") from e


def _register(server: Server, name: str, artifact: Artifact, run_id: str, lineage: Mapping[str, Any]) -> int:
    from mlflow.exceptions import MlflowException

    client = server.client
    try:
        client.create_registered_model(name, description="Models of the cascade, by reference into the artifact store.")
    except MlflowException as e:
        if e.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    manifest, path = artifact.manifest, str(artifact.out)
    tags = {"stage": manifest["stage"], "stage_key": manifest["key"], "digest": artifact.digest, "path": path}
    tags |= {k: str(lineage[k]) for k in ("data_md5", "git_sha", "git_dirty") if lineage.get(k)}
    known = client.search_model_versions(f"name = '{name}'")
    same = [v for v in known if v.tags.get("digest") == artifact.digest and _path(v) == path]
    if same:
        version = max(int(v.version) for v in same)
    else:
        source = path if server.uri.startswith("sqlite") else _reference(client, run_id, tags)
        made = client.create_model_version(name, source=source, run_id=run_id or None, tags=tags)
        version = int(made.version)
    client.set_registered_model_alias(name, CANDIDATE, str(version))
    return version


def _reference(client: Any, run_id: str, tags: Mapping[str, str]) -> str:
    """A source that servers take: of paths, only those of their own artifacts."""
    client.log_dict(run_id, dict(tags), REFERENCE)
    return f"runs:/{run_id}/{REFERENCE}"


def _path(version: Any) -> str:
    return version.tags.get("path", version.source)


def source_of(server: Server, name: str, alias: str) -> str:
    """The path that `name`'s version with `alias` points at. Raises ArtifactError if there is none."""
    from mlflow.exceptions import MlflowException

    try:
        return _path(server.client.get_model_version_by_alias(name, alias))
    except MlflowException as e:
        raise ArtifactError(f"{name}@{alias} is not in the registry at {server.uri}: {e}") from e
