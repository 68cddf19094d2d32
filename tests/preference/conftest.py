"""Studies that end with their test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from answering import Scene


@pytest.fixture
def scenes(tmp_path: Path) -> Iterator[Callable[..., Scene]]:
    """Makes a `Scene` of its settings."""
    made: list[Scene] = []

    def make(people: int = 1, **settings: Any) -> Scene:
        made.append(Scene(tmp_path / str(len(made)), people, **settings))
        return made[-1]

    yield make
    for scene in made:
        scene.close()
