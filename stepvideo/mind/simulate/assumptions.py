"""What a simulated month takes for given, and where each figure comes from."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from functools import cache
from math import sqrt
from pathlib import Path

from stepvideo.mind.faults import CATALOGUE, TABLE_4, Blame

DAY = 86400.0
GPU_DAYS = 7 / 0.037e-3
"""Of the report's month: its 7 fatal hardware faults at 0.037 a day and 1,000 GPUs (Tables 4 and 5)."""

HARDWARE = {r: n for r, n in TABLE_4.items() if CATALOGUE[r].fatal and CATALOGUE[r].blame == Blame.NODE}
PROGRAM = {r: n for r, n in TABLE_4.items() if CATALOGUE[r].blame == Blame.JOB}
SLOW = {r: n for r, n in TABLE_4.items() if not CATALOGUE[r].fatal}


@cache
def measured() -> dict[str, dict[str, dict[str, float]]]:
    """{fault: {latency: {median, worst, n}}}, as `benchmarks/mind.py --write` measured them on a real Slurm."""
    return json.loads((Path(__file__).parents[1] / "latencies.json").read_text())["latencies"]


def _worst(name: str) -> float:
    return max(each[name]["worst"] for each in measured().values() if name in each)


@dataclass(frozen=True)
class Month:
    """One job on a cluster. Rates are Table 4's times `times`; what no source tells is marked as assumed.

    Attributes:
        spares: nodes of the buffer; assumed.
        spread: shape of the Gamma distribution of nodes' rates; smaller: fewer nodes have most of the faults; assumed.
        noise: misleading events a day, each of which silences one signal or pauses a healthy job; assumed.
        step_s: of 540P on H800s (`stepvideo emulate step profile=30b`).
        requeue_s, running_s: from a decision to the requeued job, and until that runs: the worst that was measured.
        start_s: of the program, from its start to the first step: imports, groups of ranks, checkpoint; assumed.
        hold_s: training stands while a checkpoint is taken; assumed, state is copied aside and written meanwhile.
        mended: share of hardware faults that a reboot ends (report §6.5: above 60 %).
        missed: share of defects that checks and stress tests do not find; assumed.
        hidden: share of hardware faults that no node reports, so that the job only stands; assumed.
        hangs: share of program faults in which it stands in place of ending; assumed.
        again: share of program faults that come back at the same step, until a person has mended them; assumed.
        relapse_s: mean time in service until a defect that was not mended shows again; assumed.
        slowdown: of the whole job by a degraded node, as share of its speed; assumed.
        notice_steps: until telemetry names a slow rank (issue 7 asks for 50 at most).
        reboot_s, check_s, stress_s: of a node; 3 hours is the profile `long`.
        repair_s: of a node by people; assumed.
        person_s: until somebody has answered a page and mended what it was about; assumed.
        unnoticed_s: until people find a slow node by themselves; assumed.
    """

    gpus: int = 4096
    gpus_per_node: int = 8
    spares: int = 12
    days: float = 31.0
    times: float = 1.0
    spread: float = 0.5
    noise: float = 5.0
    step_s: float = 18.3
    requeue_s: float = field(default_factory=lambda: _worst("requeue_s"))
    running_s: float = field(default_factory=lambda: _worst("running_s"))
    start_s: float = 240.0
    hold_s: float = 2.0
    mended: float = 0.6
    missed: float = 0.1
    hidden: float = 0.1
    hangs: float = 0.2
    again: float = 0.2
    relapse_s: float = 12 * 3600.0
    slowdown: float = 0.15
    notice_steps: int = 50
    reboot_s: float = 300.0
    check_s: float = 60.0
    stress_s: float = 3 * 3600.0
    repair_s: float = DAY
    person_s: float = 1800.0
    unnoticed_s: float = DAY

    def __post_init__(self) -> None:
        if self.gpus < self.gpus_per_node or self.gpus % self.gpus_per_node:
            raise ValueError(f"gpus is {self.gpus}; give a multiple of {self.gpus_per_node}, the GPUs of a node")
        if self.days <= 0 or self.times <= 0 or self.noise < 0 or self.spares < 0:
            raise ValueError(
                f"days {self.days:g}, times {self.times:g}, noise {self.noise:g}, spares {self.spares}: "
                "give more than 0 days and times, and no negative noise or spares"
            )

    @property
    def nodes(self) -> int:
        return self.gpus // self.gpus_per_node

    @property
    def seconds(self) -> float:
        return self.days * DAY

    def a_day(self, rows: dict[str, int]) -> float:
        """How often the job meets one of these rows of Table 4, a day."""
        return sum(rows.values()) / GPU_DAYS * self.gpus * self.times

    @property
    def checkpoint_s(self) -> float:
        """Between checkpoints: Young's square root of twice their cost times the time between interruptions."""
        return sqrt(2 * self.hold_s * DAY / (self.a_day(HARDWARE) + self.a_day(PROGRAM)))
