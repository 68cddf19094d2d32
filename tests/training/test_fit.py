"""`fit`: exact resume, preemption, the data order."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from stepvideo.data.draw import Sampler, rng
from stepvideo.data.source import deal
from stepvideo.errors import Preempted
from stepvideo.sink import JsonlSink, latest_metrics
from stepvideo.stage import StageContext
from stepvideo.training.config import OptimConfig, TrainStageConfig
from stepvideo.training.fit import fit
from stepvideo.training.module import StageModule
from stepvideo.training.train import TrainModule


@dataclass
class ToyConfig(TrainStageConfig):
    optim: OptimConfig = field(default_factory=lambda: OptimConfig(name="muon", lr=1e-2, muon_lr=1e-2, ema=0.9))


class ToySource:
    """Eight samples a step, drawn from (step, sample)."""

    def micro_batches(self, step, rank, ranks, accumulate):
        return [self._batch(step, rows) for rows in deal(8, rank, ranks, accumulate)]

    def _batch(self, step, rows):
        x = np.stack([rng(0, "x", step, i).standard_normal(4) for i in rows])
        return {"x": torch.tensor(x, dtype=torch.float32), "share": len(rows) / 8, "ids": [f"sample {i}" for i in rows]}


class Toy(StageModule):
    """Regression; one matrix is named like a block, so that Muon gets it."""

    def __init__(self, steps: int = 12) -> None:
        super().__init__(ToyConfig().optim, steps)
        torch.manual_seed(0)
        self.net = nn.Sequential()
        self.net.add_module("blocks", nn.Linear(4, 8))
        self.net.add_module("head", nn.Linear(8, 1))
        self.source = ToySource()

    def loss(self, batch):
        x = batch["x"]
        return (self.net(x) - x.sum(1, keepdim=True)).square().mean(), {}


def context(tmp_path: Path, name: str) -> StageContext:
    config = ToyConfig()
    config.runtime.checkpoint_every, config.runtime.log_every = 5, 1
    folder = tmp_path / name
    (folder / "out").mkdir(parents=True, exist_ok=True)
    return StageContext(config, {}, folder / "out", folder / "work", JsonlSink(folder / "events.jsonl"))


class Killed(BaseException):
    """Like kill -9: nothing of ours may run after it."""


def state(module: Toy) -> list[torch.Tensor]:
    return [p.detach().clone() for p in module.net.parameters()]


def learned(events: Path) -> dict:
    """What was logged of the learning, not of the clock: {step: metrics}."""
    kept = ("loss", "grad_norm", "lr")
    return {step: {k: v for k, v in row.items() if k in kept} for step, row in latest_metrics(events).items()}


def test_trains_and_resumes_to_the_bit(tmp_path):
    whole = Toy()
    fit(whole, context(tmp_path, "whole"))
    assert whole.curve[-1][1] < 0.7 * whole.curve[0][1]

    broken = Toy()

    def die(step: int) -> None:
        if step == 8:
            raise Killed

    broken.before_step = die
    ctx = context(tmp_path, "broken")
    with pytest.raises(Killed):
        fit(broken, ctx)
    resumed = Toy()
    fit(resumed, context(tmp_path, "broken"))
    assert resumed.curve == whole.curve
    assert [s for s, *_ in resumed.curve] == list(range(12))
    for a, b in zip(state(whole), state(resumed), strict=True):
        assert torch.equal(a, b)
    rows, wanted = (learned(tmp_path / name / "events.jsonl") for name in ("broken", "whole"))
    assert rows == wanted and len(wanted) == 12

    again = Toy()  # killed after the last step, before the artifact was written
    fit(again, context(tmp_path, "broken"))
    assert all(torch.equal(a, b) for a, b in zip(state(whole), state(again), strict=True))


def test_preemption_saves_at_the_step_boundary(tmp_path):
    whole, stopped = Toy(), Toy()
    fit(whole, context(tmp_path, "whole"))
    ctx = context(tmp_path, "stopped")
    stopped.before_step = lambda step: ctx.stop.set() if step == 6 else None
    with pytest.raises(Preempted):
        fit(stopped, ctx)
    assert stopped.done == 7
    resumed = Toy()
    fit(resumed, context(tmp_path, "stopped"))
    assert resumed.curve == whole.curve
    assert all(torch.equal(a, b) for a, b in zip(state(whole), state(resumed), strict=True))


def test_sampler_loses_and_doubles_nothing():
    sampler = Sampler(7, 3, seed=1)
    drawn = [i for step in range(14) for i in sampler.batch(step)]
    for epoch in range(6):
        assert sorted(drawn[7 * epoch : 7 * epoch + 7]) == list(range(7))
    assert Sampler(7, 3, seed=1).batch(9) == sampler.batch(9)


def test_what_only_some_micro_batches_log_is_added_up_under_its_own_name():
    """Packs of a step may be of images or of videos alone (balance.method coarse, none)."""
    rows = []

    class Rank:
        device = torch.device("cpu")

        def mean(self, x):
            rows.append(x)
            return sum(r for r in rows if r.shape == x.shape)

    module = TrainModule.__new__(TrainModule)
    StageModule.__init__(module, OptimConfig(), 1)
    module.parallel = Rank()
    module._means([(0.25, {"loss": 1.0, "loss_image": 1.0})])
    both = module._means([(0.25, {"loss": 2.0, "loss_video": 2.0}), (0.5, {"loss": 2.0, "loss_video": 2.0})])
    assert both == {"loss": 1.75, "loss_image": 1.0, "loss_video": 2.0}
