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

from stepvideo.data.loader import step_loader
from stepvideo.data.source import Batch
from stepvideo.errors import ConfigError, Preempted
from stepvideo.parallel.train import TrainParallel
from stepvideo.stage import StageContext
from stepvideo.training.checkpoint import Checkpointer
from stepvideo.training.config import TrainRuntime
from stepvideo.training.module import Rollback, StageModule
from stepvideo.training.monitor.cost import CostOf, samples_only
from stepvideo.training.monitor.speed import Timed
from stepvideo.training.monitor.validation import Clips
from stepvideo.training.monitor.watch import watchers
from stepvideo.training.recording import recording
from stepvideo.training.state import restore, train_state
from stepvideo.training.strategy import trainer


def fit(
    module: StageModule,
    ctx: StageContext,
    precision: str = "32-true",
    name: str = "fit",
    callbacks: Sequence[Callback] = (),
    cost: CostOf = samples_only,
    held_out: Clips | None = None,
) -> dict[str, nn.Module]:
    """Train `module` for `module.steps` steps, from the newest intact checkpoint in `ctx.work/name` if there is one.

    Args:
        callbacks: run beside those that watch every training (`monitor.watch`).
        cost: of a micro-batch, for throughput and MFU.
        held_out: clips for the validation loss.

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
    dealt = (parallel.data_rank, parallel.data_size, runtime.accumulate)
    try:
        getattr(module.source, "dealt", module.source.micro_batches)(0, *dealt)
    except ValueError as e:
        raise ConfigError(str(e)) from e
    keeper = _Keeper(Checkpointer(ctx.work / name, parallel, runtime.keep, ctx.sink), runtime)
    watching = watchers(ctx, cost, held_out, name)
    while True:
        try:
            with recording(ctx, parallel, name) as module.recorder:
                _run(module, keeper, dealt, [*watching, *callbacks, keeper])
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


def _run(module: StageModule, keeper: _Keeper, dealt: tuple[int, int, int], callbacks: list[Callback]) -> None:
    runtime: TrainRuntime = module.ctx.config.runtime
    keeper.start = keeper.checkpoints.newest()
    start = keeper.start or 0
    run = trainer(module.parallel, module.net_precision, callbacks if start < module.steps else [])
    if start < module.steps:
        steps = range(start, module.steps)
        most = getattr(module.ctx.config, "max_failed", 0.0)
        pin = module.parallel.device.type == "cuda"
        loader = step_loader(module.source, steps, *dealt, runtime.workers, runtime.prefetch, pin, most)
        try:
            run.fit(module, Timed(loader, module.recorder, start))
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


class _Keeper(Callback):
    """Loads, logs, saves, and stops all ranks together when one was asked to."""

    def __init__(self, checkpoints: Checkpointer, runtime: TrainRuntime) -> None:
        self.checkpoints, self.every, self.log_every = checkpoints, runtime.checkpoint_every, runtime.log_every
        self.start: int | None = None
        self.stopped = False

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        assert isinstance(pl_module, StageModule)
        if pl_module.ema is not None:
            pl_module.ema.follow()
        if self.start is not None:
            _load(pl_module, self.checkpoints, self.start)
            return
        self.checkpoints.check_space(train_state(pl_module))
        guard = pl_module.ctx.config.guard
        if "rollback" in (guard.not_finite, guard.spike):  # the first steps need something to go back to
            self.checkpoints.save(0, train_state(pl_module))

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
            module.recorder.end()  # its own record, too, is written before it counts as done
            with module.recorder.span("checkpoint"):
                module.recorder.flush()  # the records of steps that will not be done again
                self.checkpoints.save(done, train_state(module))
        if stop and not last:
            self.stopped = True
            trainer.should_stop = True
