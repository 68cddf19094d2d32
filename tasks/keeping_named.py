"""Who names artifacts: MLflow's registry, data versions, studies, records of promotions."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from stepvideo.artifact import Store
from stepvideo.errors import ArtifactError
from tasks.record import RunRecord

Ref = tuple[str, str]  # stage, key
NAMING = (".json", ".jsonl", ".dvc", ".yaml", ".key", ".csv", ".tsv", ".txt", ".md", ".toml")
NAMING_BYTES = 32 << 20  # of a file that may name artifacts; larger ones are data
OWN = {"_runs", "_code", "_parts", "_telemetry", "_probe", "_trash", "_incoming"}  # of a store; they decide nothing


def own_papers(store: Store) -> list[Path]:
    """Folders of the store in which commands keep decisions, such as promotions."""
    return [p for p in store.root.glob("_*") if p.name not in OWN]


def studies(everyone: Iterable[RunRecord]) -> list[Path]:
    """Folders of the studies whose votes runs were given: they show videos of artifacts."""
    votes = {str(v) for r in everyone for v in _values(r.data["config"], "votes") if v}
    return sorted({p.parent for v in votes if (p := Path(v)).is_absolute() and p.parent.is_dir()})


def _values(config: Any, key: str) -> Iterator[Any]:
    if isinstance(config, Mapping):
        for name, value in config.items():
            if name == key and isinstance(value, str):
                yield value
            yield from _values(value, key)


def named(store: Store, there: Iterable[Ref], where: Iterable[Path]) -> dict[Ref, str]:
    """Artifacts whose key or digest stands in these files, or in text files below these folders.

    Whatever the format: a key that is named where decisions are kept is worth more than its bytes.
    """
    by_word: dict[str, list[Ref]] = {}
    for ref in there:
        by_word.setdefault(ref[1], []).append(ref)
    digests: dict[str, Ref] = {}
    for artifact in store.artifacts():
        m = artifact.manifest
        digests[m["digest"]] = digests[m["digest"][:16]] = digests[m["digest"][:32]] = (m["stage"], m["key"])
    found: dict[Ref, str] = {}
    for path in _texts(where):
        with contextlib.suppress(OSError):
            for word in set(re.findall(r"[0-9a-f]{16,64}", path.read_text(errors="replace"))):
                refs = [*by_word.get(word, ()), *([digests[word]] if word in digests else [])]
                found |= {ref: f"named by {path}" for ref in refs}
    return found


def _texts(where: Iterable[Path]) -> Iterator[Path]:
    for place in where:
        inside = (p for p in sorted(place.rglob("*")) if p.suffix in NAMING) if place.is_dir() else (place,)
        for path in inside:
            with contextlib.suppress(OSError):
                if path.is_file() and path.stat().st_size <= NAMING_BYTES:
                    yield path


def registries(everyone: Iterable[RunRecord]) -> dict[str, dict[str, Any]]:
    """{tracking URI: config of the newest run that reported there}."""
    return {
        r.data["config"]["tracking"]["mlflow_uri"]: r.data["config"]
        for r in everyone
        if r.data["config"]["tracking"]["mlflow"]
    }


def registered(store: Store, everyone: Iterable[RunRecord]) -> dict[Ref, str]:
    """Artifacts that are a version of a model in a registry that a run of this store reported to.

    Raises:
        ArtifactError: a registry cannot be asked; names it and the fix.
    """
    found: dict[Ref, str] = {}
    for uri, cfg in registries(everyone).items():
        from tasks.environment import set_defaults

        set_defaults(cfg)
        for version in _versions(uri):
            stage, key = version.tags.get("stage", ""), version.tags.get("stage_key", "")
            why = f"registered as {version.name} version {version.version}"
            for ref in {(stage, key), _ref_of(version.tags.get("path", version.source or ""))}:
                found[ref] = why
    return found


def _ref_of(path: str) -> Ref:
    """Of a path of an artifact's `out`, in whichever store, as the store may be mounted elsewhere."""
    parts = path.rstrip("/").split("/")
    return (parts[-3], parts[-2]) if len(parts) > 3 and parts[-1] == "out" else ("", "")


def _versions(uri: str) -> Iterator[Any]:
    fix = "bring it back, or give --without-registry: then models that are registered there may be removed"
    if uri.startswith("sqlite:///") and not Path(uri.removeprefix("sqlite:///")).is_file():
        raise ArtifactError(f"the registry cannot be asked: {Path(uri.removeprefix('sqlite:///'))} is missing; {fix}")
    try:
        from mlflow import MlflowClient

        client, token = MlflowClient(tracking_uri=uri, registry_uri=uri), None
        while True:
            page = client.search_model_versions(max_results=1000, page_token=token)
            yield from page
            if not (token := page.token):
                return
    except Exception as e:  # of a server that is down or old, whatever its client raises
        said = (str(e).splitlines() or [type(e).__name__])[0]
        more = " (or its database is old: `stepvideo upgrade --databases`)" if "schema" in said else ""
        raise ArtifactError(f"the registry at {without_password(uri)} cannot be asked: {said}{more}; {fix}") from e


def without_password(text: str) -> str:
    """URLs in it without user and password."""
    return re.sub(r"(\w://)[^/@\s\"']+@", r"\1***@", text)
