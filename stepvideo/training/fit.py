"""One way to train: `fit` runs a `StageModule` under Lightning's Trainer.

What Lightning does here: devices, precision, the loop, callbacks. What is ours, because resume must be exact to the bit
and the same on any number of ranks: the data order is a function of the step (`data/source.py`), networks are divided
by `stepvideo.parallel`, checkpoints are sharded, complete and intact or not there, and a preemption flag is honoured
at step boundaries by all ranks together (notes/mlops §2.6, §5.5).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback
from torch import nn
from torch.utils.data import DataLoader, Dataset

from stepvideo.data.source import Batch, Source
from stepvideo.errors import ConfigError, Preempted
from stepvideo.parallel.train import TrainParallel
from stepvideo.stage import StageContext
from stepvideo.training.checkpoint import Checkpointer
from stepvideo.training.config import TrainRuntime
from stepvideo.training.module import Rollback, StageModule
from stepvideo.training.state import restore, train_state
from stepvideo.training.strategy import trainer


def fit(
    module: StageModule,
    ctx: StageContext,
    precision: str = "32-true",
    name: str = "fit",
    callbacks: Sequence[Callback] = (),
) -> dict[str, nn.Module]:
    """Train `module` for `module.steps` steps, from the newest intact checkpoint in `ctx.work/name` if there is one.

    Returns:
        On rank 0 the trained networks, whole and on the CPU, by their names in `module.trained()`; `net` with the
        averaged weights if `optim.ema` is set. Nothing on other ranks.

    Raises:
        Preempted: a stop was asked for; the state is saved.
        ConfigError: a batch, a network or a number of ranks that does not divide as asked.
    """
    runtime: TrainRuntime = ctx.config.runtime
    parallel = TrainParallel.start(runtime.parallel, ctx.world_size, runtime.device)
    module.parallel, module.ctx, module.net_precision = parallel, ctx, precision
    for net in module.trained().values():
        net.train()
    steps = _Steps(module.source, parallel.data_rank, parallel.data_size, runtime.accumulate)
    steps.check()
    keeper = _Keeper(Checkpointer(ctx.work / name, parallel, runtime.keep, ctx.sink), runtime)
    while True:
        try:
            _run(module, keeper, steps, precision, [*callbacks, keeper])
            break
        except Rollback:
            ctx.sink.event("rolled_back", step=module.done)
    if keeper.stopped:
        raise Preempted
    if module.ema is not None:
        module.ema.copy_to_module()
    if ctx.rank == 0:
        ctx.sink.progress(module.steps, module.steps, "step")
    whole = {part: parallel.whole(net) for part, net in module.trained().items()}
    return {part: net for part, net in whole.items() if net is not None}


def _run(
    module: StageModule, keeper: _Keeper, steps: _Steps, precision: str, callbacks: list[Callback]
) -> None:
    start = keeper.checkpoints.newest() or 0
    run = trainer(module.parallel, precision, callbacks)
    if start < module.steps:
        keeper.start = start
        steps.span = range(start, module.steps)
        try:
            run.fit(module, DataLoader(steps, batch_size=None, shuffle=False))
        finally:
            keeper.checkpoints.wait()
    else:  # killed between the last step and the hand-over
        module.trainer = run
        module.configure_model()
        _load(module, keeper.checkpoints, start)


def _load(module: StageModule, checkpoints: Checkpointer, step: int) -> None:
    state = train_state(module)
    checkpoints.load(step, state)
    restore(module, state, module.ctx.config.seed, module.ctx.rank)


class _Steps(Dataset):
    """Item i is what this rank computes in the i-th step of `span`."""

    span = range(0)

    def __init__(self, source: Source, rank: int, ranks: int, accumulate: int) -> None:
        self.source, self.dealt = source, (rank, ranks, accumulate)

    def check(self) -> None:
        """Whether batches can be dealt so.

        Raises:
            ConfigError: they cannot.
        """
        try:
            self.source.micro_batches(0, *self.dealt)
        except ValueError as e:
            raise ConfigError(str(e)) from e

    def __len__(self) -> int:
        return len(self.span)

    def __getitem__(self, i: int) -> Batch:
        step = self.span[i]
        return {"step": step, "micro": self.source.micro_batches(step, *self.dealt)}


class _Keeper(Callback):
    """Loads, logs, saves, and stops all ranks together when one was asked to."""

    def __init__(self, checkpoints: Checkpointer, runtime: TrainRuntime) -> None:
        self.checkpoints, self.every, self.log_every = checkpoints, runtime.checkpoint_every, runtime.log_every
        self.start = 0
        self.stopped = False

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        assert isinstance(pl_module, StageModule)
        if pl_module.ema is not None:
            pl_module.ema.follow()
        if self.start:
            _load(pl_module, self.checkpoints, self.start)
        else:
            self.checkpoints.check_space(train_state(pl_module))

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        assert isinstance(pl_module, StageModule)
        module, ctx = pl_module, pl_module.ctx
        done, last = module.done, module.done == module.steps
        if ctx.rank == 0:
            ctx.sink.progress(done, module.steps, "step")
            if done % self.log_every == 0 or last:
                ctx.sink.metrics(done, {k: float(v) for k, v in outputs.items()})
        stop = module.parallel.any(ctx.should_stop())
        if stop or done % self.every == 0 or last:
            self.checkpoints.save(done, train_state(module))
        if stop and not last:
            self.stopped = True
            trainer.should_stop = True
