"""The registry of models in memory, for tests of what is done with it: MLflow's takes a second a test."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from stepvideo.artifact import Artifact
from tasks.registry import CANDIDATE, Registry, Version


class MemoryRegistry(Registry):
    """As MLflow's: an alias is at one version, and goes with it."""

    def __init__(self, folder: Path, model: str) -> None:
        self.model, self.where, self.folder = model, "memory", folder
        self.there: dict[int, Version] = {}
        self.set: dict[str, int] = {}

    def add(self, artifact: Artifact) -> int:
        number = len(self.there) + 1
        self.there[number] = Version(self.model, number, artifact.out, artifact.digest, "", {})
        self.set[CANDIDATE] = number
        return number

    def remove(self, number: int) -> None:
        del self.there[number]
        self.set = {alias: n for alias, n in self.set.items() if n != number}

    def versions(self) -> list[Version]:
        return list(self.there.values())

    def aliases(self) -> dict[str, int]:
        return dict(self.set)

    def set_alias(self, alias: str, number: int) -> None:
        self.set[alias] = self.version(number).number

    def drop_alias(self, alias: str) -> None:
        del self.set[alias]

    def tag(self, number: int, tags: Mapping[str, str]) -> None:
        self.there[number] = replace(self.version(number), tags={**self.there[number].tags, **tags})

    def keep(self, version: Version, files: Sequence[Path], folder: str) -> str:
        for file in files:
            (self.folder / folder).mkdir(parents=True, exist_ok=True)
            shutil.copy(file, self.folder / folder)
        return f"runs:/{version.number}/{folder}"
