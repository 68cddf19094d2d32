"""Workers that fail on purpose; imported by pool processes."""

from __future__ import annotations

import os
import time
from pathlib import Path

from stepvideo.curation import stage
from stepvideo.curation.config import CurateConfig
from stepvideo.curation.records import Result, Source


def work(items: list[str]) -> list[str]:
    for item in items:
        if item == "abort":
            os.abort()
        if item == "hang":
            time.sleep(600)
        if item == "raise":
            raise OSError("disk full")
    return [item.upper() for item in items]


def curate(items: list[Source], config: CurateConfig, root: Path) -> list[Result]:
    """`stage.work`, with a decoder that aborts on files named so."""
    if any("abort" in s.file for s in items):
        os.abort()
    return stage.work(items, config, root)


def in_the_worker(items: list[str]) -> list[str]:
    """`work`; "kill once PATH" kills the process that keeps this one, unless PATH is there."""
    import psutil

    for item in items:
        mark = Path(item.removeprefix("kill once "))
        if str(mark) != item and not mark.exists():
            mark.touch()
            psutil.Process().parents()[1].kill()  # the first parent is the fork server
            time.sleep(600)
    return work(items)
