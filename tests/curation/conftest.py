"""Fixtures of the curation's tests; helpers beside this file are found by name, also by worker processes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from stepvideo.stage import StageContext


@pytest.fixture
def context(tmp_path: Path) -> Callable[..., StageContext]:
    """context(name, config, **inputs) → a StageContext below tmp_path/name; the same name finds the same `work`."""

    def make(name: str, config: object, **inputs: Path) -> StageContext:
        out, work = tmp_path / name / "out", tmp_path / name / "work"
        out.mkdir(parents=True)
        work.mkdir(exist_ok=True)
        return StageContext(config, inputs, out, work)

    return make
