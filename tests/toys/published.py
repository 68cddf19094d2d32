"""Artifacts of given files, what they hold, and commands in a checkout."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from pathlib import Path

from stepvideo import storage
from stepvideo.artifact import Artifact, Store, content_digest

KEY = "0123456789abcdef"


def artifact(store: Store, stage: str, files: Mapping[str, bytes]) -> Artifact:
    directory = store.dir(stage, KEY)
    for name, body in files.items():
        storage.write_atomic(directory / "out" / name, body)
    said = storage.checksums(directory / "out")
    manifest = {"stage": stage, "key": KEY, "files": said, "digest": content_digest(said), "finished": time.time()}
    storage.write_json(directory / "manifest.json", manifest)
    return Artifact(directory, manifest)


def contents(found: Iterable[Artifact]) -> dict[str, dict[str, bytes]]:
    """{stage: {file: bytes}}, with the manifests."""
    return {a.manifest["stage"]: {n: (a.dir / n).read_bytes() for n in _names(a)} for a in found}


def _names(found: Artifact) -> list[str]:
    return [name for name in storage.checksums(found.dir) if name != "lock"]


def run(root: Path, *argv: str) -> str:
    """git, as somebody, or a Python module; what it prints."""
    identity = ["-c", "user.name=t", "-c", "user.email=t@t"]
    command = ["git", *identity, *argv[1:]] if argv[0] == "git" else [sys.executable, "-m", *argv]
    return subprocess.run(command, cwd=root, check=True, capture_output=True, text=True).stdout
