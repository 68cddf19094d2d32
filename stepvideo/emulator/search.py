"""The fastest plan of a space, exhaustively; what comes next, what was refused, and what would help if nothing fits."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from stepvideo.emulator.plan import Plan
from stepvideo.emulator.space import Candidates, Job, Space, candidates
from stepvideo.emulator.step import step


@dataclass(frozen=True)
class Choice:
    """A plan that fits; bytes are of the fullest rank."""

    plan: Plan
    seconds: float
    mfu: float
    bytes: float

    @property
    def parts(self) -> int:
        """Kinds of parallelism that people must keep running: the report adopts few (§6.2.2)."""
        p = self.plan
        used = (p.tensor > 1, p.context > 1, p.pipeline > 1, p.virtual > 1, p.zero > 1, 0 < p.recompute < 1)
        return int(sum(map(bool, used)))

    def describe(self) -> dict[str, Any]:
        numbers = {"seconds": self.seconds, "mfu": self.mfu, "bytes": self.bytes, "parts": self.parts}
        return self.plan.describe() | numbers


@dataclass(frozen=True)
class Found:
    """choices: best first. over: bytes that the most frugal plan needs too many, where nothing fits."""

    choices: list[Choice]
    refused: dict[str, int]
    looked_at: int
    configurations: int
    valid: int
    seconds: float
    over: float = 0.0
    frugal: Plan | None = None

    @property
    def best(self) -> Choice | None:
        return self.choices[0] if self.choices else None


def search(job: Job, space: Space | None = None, top: int = 10) -> Found:
    """The `top` fastest plans; of equally fast ones those with fewer parts come first."""
    started = time.perf_counter()
    space = space or Space()
    found = candidates(job, space)
    choices = _fastest(job, found, top)
    over, frugal = _closest(job, found) if not found.fits.any() and len(found) else (0.0, None)
    return Found(
        choices,
        found.refused,
        found.looked_at,
        found.configurations,
        len(found),
        time.perf_counter() - started,
        over,
        frugal,
    )


def _fastest(job: Job, found: Candidates, top: int) -> list[Choice]:
    if not len(found):
        return []
    taken = step(job.work, job.cluster, found.plan, job.calibration)
    seconds = np.where(found.fits, np.broadcast_to(taken.total, found.plan.shape), np.inf)
    mfu = np.broadcast_to(taken.mfu, found.plan.shape)
    order = np.argsort(seconds, kind="stable")[: 4 * top]
    choices = [
        Choice(found.plan.at(i), float(seconds[i]), float(mfu[i]), float(found.bytes[i]))
        for i in order
        if np.isfinite(seconds[i])
    ]
    return sorted(choices, key=lambda c: (round(c.seconds, 9), c.parts))[:top]


def _closest(job: Job, found: Candidates) -> tuple[float, Plan]:
    """How many bytes the most frugal plan is over, and the plan."""
    least = int(np.argmin(found.bytes))
    return float(found.bytes[least]) - job.bytes, found.plan.at(least)


def remedies(tried: Iterable[tuple[str, Callable[[], Job]]], space: Space | None = None) -> Iterator[str]:
    """Those changes of a job, each with its name, under which something fits, and how fast that is."""
    for name, changed in tried:
        best = search(changed(), space, top=1).best
        if best is not None:
            yield f"{name}: {best.seconds:.3g} s a step, {100 * best.mfu:.1f} % MFU, {best.bytes / 1e9:.1f} GB"
