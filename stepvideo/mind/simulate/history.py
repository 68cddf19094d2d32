"""What happens in a month, drawn from a seed: every policy meets the same."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from stepvideo.mind.simulate.assumptions import HARDWARE, PROGRAM, SLOW, Month


class Shows(StrEnum):
    """How a happening is seen from outside."""

    DEAD = "the node is gone"
    REPORTED = "the node reports a fault, and the job stands"
    STANDS = "the job stands, and nothing tells why"
    ENDS = "the program ends"
    DEGRADES = "the node is slower, and so is the job"
    LOG = "healthy, but its log is silent"
    POWER = "healthy, but power reads low"
    NETWORK = "healthy, but the network's counters stand still"
    AGENT = "healthy, but a node's agent is silent"
    SAVES = "healthy, and a checkpoint takes long"
    VALIDATES = "healthy, and validates between two steps"


NOISE = (Shows.LOG, Shows.POWER, Shows.NETWORK, Shows.AGENT, Shows.SAVES, Shows.VALIDATES)


@dataclass(frozen=True)
class Happening:
    """time in s from the month's start; node: that it befalls, None for the program and noise.

    Attributes:
        mends: a reboot ends it.
        again: it comes back at the same step, until a person has mended the program.
        lasts_s: of noise.
        noticed_s: until a slow node is named.
    """

    time: float
    fault: str
    shows: Shows
    node: int | None = None
    mends: bool = True
    again: bool = False
    lasts_s: float = 0.0
    noticed_s: float = 0.0


def draw(month: Month, seed: int) -> list[Happening]:
    """In the order of time. Faults come to every node, in use or not, at a rate of its own."""
    rng = np.random.default_rng([seed, 1])
    everywhere = month.nodes + month.spares
    share = rng.gamma(month.spread, 1 / month.spread, everywhere)  # of a node, 1 on average
    found = []
    for rows in (HARDWARE, SLOW):
        rates = month.a_day(rows) / month.nodes * share
        for node in np.repeat(np.arange(everywhere), rng.poisson(rates * month.days)):
            found.append(hardware(month, rng, rng.uniform(0, month.seconds), int(node), _row(rng, rows)))
    for _ in range(rng.poisson(month.a_day(PROGRAM) * month.days)):
        shows = Shows.STANDS if rng.random() < month.hangs else Shows.ENDS
        again = bool(shows == Shows.ENDS and rng.random() < month.again)
        found.append(Happening(rng.uniform(0, month.seconds), _row(rng, PROGRAM), shows, again=again))
    for _ in range(rng.poisson(month.noise * month.days)):
        shows = NOISE[rng.integers(len(NOISE))]
        found.append(Happening(rng.uniform(0, month.seconds), "", shows, lasts_s=rng.uniform(20, 300)))
    return sorted(found, key=lambda h: h.time)


def hardware(month: Month, rng: np.random.Generator, time: float, node: int, fault: str) -> Happening:
    """A fault of a node, with how it shows."""
    if fault in SLOW:
        told = (
            0.0 if rng.random() < 0.5 else month.notice_steps * month.step_s
        )  # by its sensors, or by its ranks' times
        return Happening(time, fault, Shows.DEGRADES, node, bool(rng.random() < month.mended), noticed_s=told)
    shows = Shows.STANDS if rng.random() < month.hidden else Shows.REPORTED
    if fault == "NODE_SHUTDOWN":
        shows = Shows.DEAD
    return Happening(time, fault, shows, node, bool(rng.random() < month.mended))


def _row(rng: np.random.Generator, rows: dict[str, int]) -> str:
    counts = np.array(list(rows.values()), float)
    return str(rng.choice(list(rows), p=counts / counts.sum()))
