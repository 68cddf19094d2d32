"""Small problems of plans; run as a script, a search of one that kills itself."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import numpy as np

from stepvideo.emulator.hardware import Cluster, find
from stepvideo.emulator.networks import Size, dit_workload
from stepvideo.emulator.objectives import PlanProblem, StreamProblem
from stepvideo.emulator.plan import Plan
from stepvideo.emulator.space import Job, Space
from stepvideo.models.config import DiTConfig

SMALL = Space(tensor=(1, 2, 4), context=(1, 2), pipeline=(1, 2, 4), virtual=(1, 2), zero=(0, 1), micro_batch=(1, 2))


def job(frames: int = 68, batch: int = 32, budget: float = 14e9, layers: int = 8) -> Job:
    """Layers of 2,048 on 16 GPUs; bytes that fall with every degree and with recomputation."""

    def memory(plan: Plan):
        kept = 0.9e9 * frames / plan.tensor / plan.context * plan.micro_batch * (1 - 0.9 * plan.recompute)
        weights = 16e9 / plan.tensor / plan.pipeline
        return weights * np.where(plan.zero > 0, 0.25 + 0.75 / plan.data, 1) + kept + 1e9 * (plan.recompute > 0)

    work = dit_workload(DiTConfig(16, 128, layers), [Size(frames, 192, 320)])
    return Job(work, Cluster(find("H800"), 16), batch, memory, budget=budget)


def plans() -> PlanProblem:
    return PlanProblem(job(), SMALL)


def stream() -> StreamProblem:
    """Videos of 17 and 68 frames, three steps to one."""
    few = Space(tensor=(1, 2), context=(1, 2), pipeline=(1, 2), virtual=(1,), zero=(0, 1), micro_batch=(1, 2))
    return StreamProblem((job(17, 64, layers=4), job(68, 32, layers=4)), (0.75, 0.25), few)


if __name__ == "__main__":
    from tasks.search import Method, OptunaSearch

    journal, dies_after = Path(sys.argv[1]), int(sys.argv[2])
    for number, _, _ in OptunaSearch(stream(), Method(start=8), 3, journal).run(24):
        if number + 1 == dies_after:
            os.kill(os.getpid(), signal.SIGKILL)
