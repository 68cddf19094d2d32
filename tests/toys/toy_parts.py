"""A stage of thirty numbers in parts of two, for job arrays. Found by jobs through PYTHONPATH."""

from __future__ import annotations

import functools
import os
import signal
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stepvideo import storage
from stepvideo.config import StageConfig
from stepvideo.curation.config import HealthConfig, PartsRuntime
from stepvideo.curation.parts import run_parts
from stepvideo.stage import StageContext

KINDS = "toy-parts=toy_parts:run,toy_parts:PartsConfig"


@dataclass
class PartsConfig(StageConfig):
    kill: int = -1  # the element that is killed at its first part, the first time
    part_s: float = 0.0  # time that a part takes
    runtime: PartsRuntime = field(default_factory=PartsRuntime)


class Files:
    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def there(self, name: str) -> bool:
        return (self.folder / name).exists()

    def write(self, name: str, results: list[Any]) -> None:
        storage.write_json(self.folder / name, [results, os.getpid()])


def squares(items: list[int], part_s: float) -> list[int]:
    time.sleep(part_s)
    return [i * i for i in items]


def run(ctx: StageContext) -> dict[str, float]:
    config: PartsConfig = ctx.config
    mark = ctx.work / "killed"
    if ctx.share and ctx.share[0] == config.kill and not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    chunks = [[i, i + 1] for i in range(0, 30, 2)]
    names = [f"{i:02d}.json" for i in range(len(chunks))]
    parts = Files(ctx.work / "parts")

    work = functools.partial(squares, part_s=config.part_s)
    run_parts(ctx, chunks, names, parts, work, lambda *_: -1, HealthConfig(), "numbers")
    if ctx.rank:
        return {}
    found = [storage.read_json(parts.folder / name) for name in names]
    storage.write_json(ctx.out / "squares.json", [n for numbers, _ in found for n in numbers])
    return {"processes": len({pid for _, pid in found})}
