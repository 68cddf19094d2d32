"""Exhaustive search against brute force, one plan after the other; refusals, remedies, speed."""

from __future__ import annotations

import itertools
import time

import numpy as np
import pytest

from stepvideo.emulator.calibration import Calibration
from stepvideo.emulator.hardware import Cluster, find
from stepvideo.emulator.networks import Size, dit_workload
from stepvideo.emulator.plan import Plan, check
from stepvideo.emulator.search import remedies, search
from stepvideo.emulator.space import Job, Space, candidates
from stepvideo.emulator.step import step
from stepvideo.errors import ConfigError
from stepvideo.models.config import DiTConfig

SMALL = Space(tensor=(1, 2, 4), context=(1, 2), pipeline=(1, 2, 4), virtual=(1, 2), zero=(0, 1), micro_batch=(1, 2))
WORK = dit_workload(DiTConfig(16, 128, 8), [Size(68, 192, 320)])


def memory(plan: Plan):
    """Bytes that fall with every kind of parallelism and with recomputation, but for its first layer."""
    weights = 16e9 / plan.tensor / plan.pipeline
    kept = 60e9 / plan.tensor / plan.context * plan.micro_batch * (1 - 0.9 * plan.recompute)
    return weights * np.where(plan.zero > 0, 0.25 + 0.75 / plan.data, 1) + kept + 1e9 * (plan.recompute > 0)


def job(gpus: int = 16, batch: int = 32, budget: float = 20e9) -> Job:
    return Job(WORK, Cluster(find("H800"), gpus), batch, memory, Calibration(), budget)


def brute_force(of: Job, space: Space):
    """(seconds, numbers) of every plan and every number of recomputed layers that can run and fits."""
    for tp, cp, pp, vp, zero, mb in itertools.product(*space.axes.values()):
        network = tp * cp * pp
        if of.cluster.gpus % network or 8 % (pp * vp):
            continue
        data = of.cluster.gpus // network
        if of.batch % (data * mb) or (zero and data * cp == 1):
            continue
        for layers in range(8 // pp + 1):
            plan = Plan(tp, cp, pp, vp, data, zero, mb, of.batch // (data * mb), layers * pp / 8)
            try:
                check(plan, of.work, of.cluster)
            except ConfigError:
                continue
            if memory(plan) <= of.budget:
                yield float(step(of.work, of.cluster, plan, of.calibration).total), plan.describe()


@pytest.mark.parametrize("budget", [8e9, 14e9, 20e9, 200e9])
def test_the_best_plan_is_that_of_brute_force(budget):
    of = job(budget=budget)
    found = search(of, SMALL, top=5)
    seconds, best = min(brute_force(of, SMALL), key=lambda row: row[0])
    assert found.best is not None
    assert found.best.seconds == pytest.approx(seconds, rel=1e-12)
    assert found.best.bytes <= of.budget
    same = {n: found.best.plan.describe()[n] for n in ("tensor", "context", "pipeline", "virtual", "micro_batch")}
    assert same == {n: best[n] for n in same}
    assert [c.seconds for c in found.choices] == sorted(c.seconds for c in found.choices)


def test_every_plan_is_accounted_for():
    found = candidates(job(), SMALL)
    assert found.looked_at == SMALL.plans == 3 * 2 * 3 * 2 * 2 * 2
    assert sum(found.refused.values()) + int(found.fits.sum()) == SMALL.plans
    assert any(
        "does not divide 8 layers" in reason or "heads" in reason or "GPUs" in reason for reason in found.refused
    )


def test_recomputation_is_as_little_as_fits():
    of = job()
    found = candidates(of, SMALL)
    own = 8 // found.plan.pipeline
    layers = np.round(found.plan.recompute * own)
    for i in np.flatnonzero(found.fits & (layers > 0)):
        plan = found.plan.at(int(i))
        fewer = Plan(**(plan.describe() | {"recompute": (layers[i] - 1) / own[i]}))
        assert memory(plan) <= of.budget < memory(fewer)


def test_nothing_fits_says_by_how_much_and_what_would():
    found = search(job(budget=2e9), SMALL)
    assert not found.choices and found.frugal is not None
    assert found.over == pytest.approx(float(memory(found.frugal)) - 2e9)
    assert any("although every layer recomputes" in reason for reason in found.refused)
    changes = [("half the memory", lambda: job(budget=1e9)), ("80 GB", lambda: job(budget=80e9))]
    helped = list(remedies(changes, SMALL))
    assert len(helped) == 1 and helped[0].startswith("80 GB: ") and "MFU" in helped[0]


@pytest.mark.parametrize("wrong", [{"tensor": ()}, {"pipeline": (0, 1)}, {"micro_batch": (1, 1)}])
def test_spaces_without_values_are_refused(wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        Space(**wrong)


def test_the_whole_base_space_takes_less_than_a_second():
    of = Job(dit_workload(DiTConfig(), [Size(204, 544, 992)]), Cluster(find("H800"), 3072), 768, memory)
    started = time.process_time()
    found = search(of)
    assert time.process_time() - started < 1.0
    assert found.configurations > 1_000_000 and found.best is not None
