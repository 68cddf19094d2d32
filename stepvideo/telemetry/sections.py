"""What the names of spans say: which are waiting for other ranks, and which pauses are meant to be there."""

from __future__ import annotations

import re

STEP, DATA_WAIT = "step", "data_wait"
WAITING = re.compile(
    r"all_reduce|all_gather|reduce_scatter|all_to_all|broadcast|barrier|grad_reduce|grad_sync|communication|_comm$"
)
PAUSES = ("checkpoint", "validation", "samples", "gc", "profile", "ema_export", "snapshot")


def label(name: str, parent: str) -> str:
    """A section's name: that of its span, after its parent's if it is inside a part of the step."""
    return name if parent in ("", STEP) else f"{parent}/{name}"


def waits(section: str) -> bool:
    """Whether its time says how long others took: a slow rank waits least."""
    return bool(WAITING.search(section.rpartition("/")[2]))


def is_part(section: str) -> bool:
    """Whether it is one of the parts that a step is the sum of."""
    return section != STEP and "/" not in section


def pause(section: str) -> str:
    """Which pause it is, or ""."""
    return next((p for p in PAUSES if p in section), "")
