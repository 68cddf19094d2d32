"""Memory of arrays of plans, by pipeline stage: the same figures as of a training, and what schedules add."""

from __future__ import annotations

import numpy as np
import pytest

from stepvideo.emulator.activations import MicroBatch
from stepvideo.emulator.events import simulate
from stepvideo.emulator.plan import Plan, grid
from stepvideo.emulator.plan_memory import PARTS, Storing, in_flight, plan_memory, worst
from stepvideo.emulator.train_memory import Training, train_memory
from stepvideo.errors import ConfigError
from stepvideo.models.config import DiTConfig
from stepvideo.parallel.config import TrainParallelConfig

CFG = DiTConfig()
LONG = MicroBatch(1, (36, 34, 62))


@pytest.mark.parametrize("zero", [0, 1, 2, 3])
@pytest.mark.parametrize(("checkpointing", "share"), [("none", 0.0), ("full", 1.0), ("fraction", 0.5)])
def test_without_stages_a_plan_needs_what_a_training_needs(zero, checkpointing, share):
    par = TrainParallelConfig(
        tensor=4, ulysses=2, zero=zero, checkpointing=checkpointing, checkpoint_fraction=share, compile=True
    )
    trained = train_memory(CFG, LONG, Training(par, ranks=64, accumulate=2))
    plan = Plan(tensor=4, context=2, data=8, zero=zero, micro_batches=2, recompute=share)
    planned = plan_memory(CFG, LONG, plan)
    assert planned.activations == pytest.approx(trained.activations, rel=1e-4)
    assert planned.backward == trained.backward and planned.buffers == trained.exchange
    assert planned.states == pytest.approx(trained.master + trained.optimizer)
    assert planned.total >= trained.total > 0.9 * planned.total - planned.gradients


def test_arrays_of_plans_are_the_plans_one_by_one():
    plans = grid(
        {"tensor": [1, 2, 8], "context": [1, 2], "pipeline": [1, 2, 4], "virtual": [1, 3], "recompute": [0.0, 0.3, 1.0]}
    )
    many = worst(CFG, [LONG, MicroBatch(8, (1, 16, 16))], plans)
    assert many.shape == plans.shape
    for i in range(0, many.size, 7):
        one = plans.at(i)
        sizes = [
            plan_memory(CFG, b, one, s).total for b in (LONG, MicroBatch(8, (1, 16, 16))) for s in range(one.pipeline)
        ]
        assert many.flat[i] == pytest.approx(max(map(float, sizes)), rel=1e-12)


@pytest.mark.parametrize(("p", "v", "m"), [(1, 1, 3), (2, 1, 1), (4, 1, 8), (4, 1, 2), (2, 3, 4), (4, 2, 8), (4, 3, 4)])
def test_micro_batches_in_flight_are_the_schedules(p, v, m):
    """Of the events of the simulated schedule: most forwards begun and not yet followed by their backward."""
    events = simulate(1.0, 2.0, p, v, m)
    for stage in range(p):
        open_, most = 0, 0
        for e in sorted((e for e in events if e.work.stage == stage), key=lambda e: e.start):
            open_ += -1 if e.work.backward else 1
            most = max(most, open_)
        assert float(in_flight(p, v, m, stage)) == pytest.approx(most / v)


def test_first_stage_holds_most_activations_and_the_last_the_output():
    plan = Plan(tensor=8, pipeline=4, micro_batches=8, recompute=0.5)
    activations = [float(plan_memory(CFG, LONG, plan, s).activations) for s in range(4)]
    assert activations == sorted(activations, reverse=True)
    last, inner = plan_memory(CFG, LONG, plan, -1), plan_memory(CFG, LONG, plan, 2)
    assert last.weights > inner.weights  # what is outside the blocks


def test_parts_have_names_and_add_up():
    row = plan_memory(CFG, LONG, Plan(tensor=8, recompute=1.0), how=Storing(ema=True)).row()
    assert sum(row[n] for n in PARTS) == pytest.approx(row["total"])
    assert all(size >= 0 for size in row.values())


def test_more_ranks_never_need_more():
    sizes = [worst(CFG, [LONG], Plan(tensor=t, recompute=1.0, data=2)) for t in (1, 2, 4, 8)]
    assert np.all(np.diff(np.array(sizes)) < 0)


def test_a_network_without_formulas_is_refused():
    with pytest.raises(ConfigError, match="mmdit"):
        plan_memory(DiTConfig(block="mmdit"), LONG, Plan())
