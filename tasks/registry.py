"""MLflow's model registry: versions by reference (a path in the store), promotion by alias."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stepvideo.artifact import Artifact
from stepvideo.errors import ArtifactError, StepVideoError
from tasks.tracking import Server

CANDIDATE, CHAMPION, PREVIOUS = "candidate", "champion", "previous"
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


@dataclass(frozen=True)
class Version:
    """A version of a registered model.

    Attributes:
        path: the artifact's `out`. run_id: the run that made it, "" if none is known.
    """

    model: str
    number: int
    path: Path
    digest: str
    run_id: str
    tags: Mapping[str, str]

    def __str__(self) -> str:
        return f"{self.model} version {self.number}"


class Unknown(StepVideoError):
    """A version that the registry does not have."""


class Registry:
    """One model's versions and aliases.

    Every method raises StepVideoError where the server cannot be reached or refuses; nothing is changed then.
    """

    def __init__(self, server: Server, model: str) -> None:
        self.server, self.model = server, model
        self.where = re.sub(r"//[^/@]*@", "//", server.uri)  # without a password
        database = Path(server.uri.removeprefix("sqlite:///"))
        if server.uri.startswith("sqlite:///") and not database.exists():  # which a client would make, empty
            raise StepVideoError(f"there is no registry: {database} is missing; `stepvideo run` with tracking=local")

    def versions(self) -> list[Version]:
        """All of them, oldest first; none if the model is not registered."""
        with self._asked("list the versions"):
            found = self._client.search_model_versions(f"name = '{self.model}'")
            return sorted((self._version(v) for v in found), key=lambda v: v.number)

    def aliases(self) -> dict[str, int]:
        """{alias: version}; empty if the model is not registered."""
        from mlflow.exceptions import MlflowException

        with self._asked("read the aliases"):
            try:
                found = self._client.get_registered_model(self.model).aliases
            except MlflowException as e:
                if e.error_code != "RESOURCE_DOES_NOT_EXIST":
                    raise
                return {}
            return {alias: int(version) for alias, version in found.items()}

    def version(self, number: int) -> Version:
        """Raises Unknown if there is none."""
        found = {v.number: v for v in self.versions()}
        if number not in found:
            known = ", ".join(map(str, found)) or "none; `stepvideo run` registers the last model of a cascade"
            raise Unknown(f"{self.model} has no version {number} at {self.where}; there are: {known}")
        return found[number]

    def at(self, alias: str) -> Version | None:
        """The version with an alias."""
        number = self.aliases().get(alias)
        return None if number is None else self.version(number)

    def find(self, artifact: Artifact) -> Version:
        """The newest version of an artifact, by its content. Raises StepVideoError if it was never registered."""
        same = [v for v in self.versions() if v.digest == artifact.digest]
        if not same:
            stage, key = artifact.manifest["stage"], artifact.manifest["key"]
            raise StepVideoError(
                f"{stage}/{key} is not in the registry as {self.model} at {self.where}; the same `stepvideo run` "
                "again registers the last model of its cascade (register=true, and tracking other than none)"
            )
        return same[-1]

    def set_alias(self, alias: str, number: int) -> None:
        with self._asked(f"set the alias {alias}"):
            self._client.set_registered_model_alias(self.model, alias, str(number))

    def drop_alias(self, alias: str) -> None:
        with self._asked(f"remove the alias {alias}"):
            self._client.delete_registered_model_alias(self.model, alias)

    def tag(self, number: int, tags: Mapping[str, str]) -> None:
        with self._asked("set tags"):
            for key, value in tags.items():
                self._client.set_model_version_tag(self.model, str(number), key, value)

    def keep(self, version: Version, files: Sequence[Path], folder: str) -> str:
        """Files into the artifacts of the run behind a version, below `folder`; their address."""
        with self._asked("store the evidence"):
            run_id = version.run_id
            if not run_id:
                tags = {"mlflow.runName": f"evidence of {version}", "kind": "evidence"}
                run = self._client.create_run(self.server.experiment_id, tags=tags)
                run_id = run.info.run_id
                self._client.set_terminated(run_id)
            for file in files:
                self._client.log_artifact(run_id, str(file), folder)
            return f"runs:/{run_id}/{folder}"

    @property
    def _client(self) -> Any:
        return self.server.client

    def _version(self, v: Any) -> Version:
        return Version(self.model, int(v.version), Path(_path(v)), v.tags.get("digest", ""), v.run_id or "", v.tags)

    @contextlib.contextmanager
    def _asked(self, what: str) -> Iterator[None]:
        from mlflow.exceptions import MlflowException

        try:
            yield
        except (MlflowException, OSError) as e:
            said = str(e).splitlines()[0]
            raise StepVideoError(
                f"cannot {what} of {self.model} at {self.where}: {said}\n  start the server, or mend the address "
                "or its password, and give the same command again; it goes on where this one stopped"
            ) from e
