"""Artifacts elsewhere: below a URL or a folder they lie as in a store, STAGE/KEY/out/… and STAGE/KEY/manifest.json.

The manifest goes last, so an artifact is there whole or not at all. What reads an artifact's files can read them there:
`runtime.latents_url=URL/latents/KEY/out`, `TarShards("URL/shards/KEY/out", local)`.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from stepvideo import s3, storage
from stepvideo.artifact import Artifact, Store, content_digest, damage, lock, versioned
from stepvideo.errors import ArtifactError

MANIFEST = "manifest.json"


def publish(artifact: Artifact, url: str) -> str:
    """Copy an artifact below a URL; where it lies then. An interrupted call goes on where it was.

    Raises:
        ArtifactError: the artifact is damaged, another result lies there under its key, or the store cannot be used.
    """
    manifest = artifact.manifest
    if wrong := damage(artifact.dir, manifest):
        raise ArtifactError(f"{artifact.dir} is not published: {wrong}; run its stage again")
    place = f"{url.rstrip('/')}/{manifest['stage']}/{manifest['key']}"
    with s3.explained(place):
        there = _manifest(place)
        if there and there["digest"] != artifact.digest:
            raise ArtifactError(
                f"{place} holds another result of the same settings (digest {there['digest'][:16]}, "
                f"here {artifact.digest[:16]}); publish below another URL"
            )
        if not there:
            storage.upload(artifact.dir, place, [*(f"out/{name}" for name in manifest["files"]), MANIFEST])
    return place


def restore(place: str, store: Store) -> Artifact:
    """Bring what `publish` has put at `place` into a store, byte for byte; every file is checked.

    Raises:
        ArtifactError: there is no artifact, it is damaged there, or a job is making the same one.
    """
    with s3.explained(place):
        manifest = _manifest(place)
    if manifest is None:
        raise ArtifactError(f"{place} has no {MANIFEST}: there is no artifact, or its publication was interrupted")
    url = f"{place.rstrip('/')}/out"
    with s3.explained(place):
        return settle(manifest, store, place, lambda out: storage.download(url, out, manifest["files"]))


def settle(manifest: Mapping[str, Any], store: Store, place: str, bring: Callable[[Path], None]) -> Artifact:
    """An artifact that comes from elsewhere, in a store; `bring(folder)` puts its files there. All are checked.

    Raises:
        NewerStore: a newer stepvideo has written it.
        ArtifactError: the manifest is none of ours, a file is not as it says, or a job is making the same artifact.
    """
    versioned(manifest, Path(f"{place}/{MANIFEST}"))  # only looked at: it is kept as it is, byte for byte
    names = [manifest.get("stage", ""), manifest.get("key", "")]
    files = manifest.get("files") or {}
    outside = [n for n in files if n.startswith("/") or ".." in n.split("/")]
    if not all(re.fullmatch(r"\w[\w.-]*", n) for n in names) or outside:
        raise ArtifactError(f"{place}/{MANIFEST} is no manifest of an artifact")
    if content_digest(files) != manifest.get("digest"):
        raise ArtifactError(f"{place}/{MANIFEST} is damaged: its digest is not that of its files")
    if found := store.find(*names):
        return found
    directory = store.dir(*names)
    with lock(directory) as mine:
        if not mine:
            raise ArtifactError(f"{directory} is being made by another job; wait for it")
        store.set_aside_damaged(*names)
        shutil.rmtree(directory / "out", ignore_errors=True)
        bring(directory / "out")
        if wrong := damage(directory, manifest):
            shutil.rmtree(directory / "out")
            raise ArtifactError(f"{place}: {wrong}; publish it again from where it is whole")
        storage.write_json(directory / MANIFEST, manifest)
    return Artifact(directory, manifest)


def _manifest(place: str) -> dict[str, Any] | None:
    raw = storage.read_whole(f"{place.rstrip('/')}/{MANIFEST}")
    try:
        found = None if raw is None else json.loads(raw)
    except ValueError as e:
        raise ArtifactError(f"{place}/{MANIFEST} is damaged: {e}") from e
    if raw is not None and not isinstance(found, dict):
        raise ArtifactError(f"{place}/{MANIFEST} is no manifest of an artifact")
    return found
