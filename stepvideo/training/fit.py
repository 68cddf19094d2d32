"""One way to train: a `StageModule` says what a batch and a loss are, `fit` runs it under Lightning's Trainer.

What Lightning does here: devices, DDP over torchrun ranks, precision, the loop. What is ours, because resume must be
exact to the bit: the data order is a function of the step (`data/draw.py`), checkpoints are complete and atomic, a
preemption flag is honoured at step boundaries by all ranks together (notes/mlops §2.6, §5.5).
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.plugins.environments import LightningEnvironment, TorchElasticEnvironment
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Sampler

from stepvideo import storage
from stepvideo.errors import Preempted, StepVideoError
from stepvideo.stage import StageContext
from stepvideo.training.config import OptimConfig
from stepvideo.training.optim import EMA, lr_factor, optimizers

Batch = dict[str, Any]
KEEP_CHECKPOINTS = 2


class StageModule(L.LightningModule):
    """Base of the trained modules. Subclasses set `self.net` and define `batch` and `loss`.

    `batch(step, rank, world_size)` gives a rank's share of the global batch of that step; `loss(batch)` gives the
    scalar to minimise and what to log.
    """

    net: nn.Module

    def __init__(self, optim: OptimConfig, steps: int) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.optim, self.steps = optim, steps
        self.done = 0  # optimizer steps so far
        self.curve: list[list[float]] = []  # [step, loss, gradient norm], the record that selection and reports read
        self.ema: EMA | None = None

    def batch(self, step: int, rank: int, world_size: int) -> Batch:
        raise NotImplementedError

    def loss(self, batch: Batch) -> tuple[Tensor, dict[str, float]]:
        raise NotImplementedError

    def before_step(self, step: int) -> None:
        """Schedules that change the module itself (unfreezing)."""

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        return optimizers(self.net.named_parameters(), self.optim)

    def on_train_start(self) -> None:
        if self.ema is not None:
            self.ema.follow()

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Any]:
        step = batch["step"]
        self.before_step(step)
        loss, logs = self.loss(batch)
        norm = self.update(loss, self.optimizers(use_pl_optimizer=False), step)
        self.done = step + 1
        if self.ema is not None:
            self.ema.update(step)
        value = float(loss.detach())
        if value != value:
            raise StepVideoError(
                f"the loss is NaN at step {step}; lower optim.lr or optim.clip, or use precision=32-true"
            )
        self.curve.append([step, value, norm])
        return {"loss": loss.detach(), "grad_norm": norm, **logs}

    def update(self, loss: Tensor, opts: Any, step: int) -> float:
        """Backward, clip, step. Returns the gradient norm before clipping."""
        opts = opts if isinstance(opts, list) else [opts]
        for opt in opts:
            opt.zero_grad(set_to_none=True)
        self.manual_backward(loss)
        return self.step_optimizers(opts, step)

    def step_optimizers(self, opts: list[torch.optim.Optimizer], step: int) -> float:
        """Clip the gradients that are there, set the learning rates of `step`, step; the norm before clipping."""
        norm = float(nn.utils.clip_grad_norm_(self.net.parameters(), self.optim.clip))
        factor = lr_factor(step, self.steps, self.optim)
        for opt in opts:
            for group in opt.param_groups:
                group.setdefault("peak_lr", group["lr"])
                group["lr"] = group["peak_lr"] * factor
            opt.step()
        return norm

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["stepvideo"] = {"done": self.done, "curve": self.curve}
        if self.ema is not None:
            checkpoint["stepvideo"]["ema"] = self.ema.shadow

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        state = checkpoint["stepvideo"]
        self.done, self.curve = state["done"], state["curve"]
        if self.ema is not None:
            self.ema.load(state["ema"])


def fit(module: StageModule, ctx: StageContext, precision: str = "32-true", name: str = "fit") -> None:
    """Train `module` for `module.steps` steps, from the newest complete checkpoint in `ctx.work/name` if there is one.

    Afterwards the module holds the averaged weights if `optim.ema` is set.

    Raises:
        Preempted: a stop was asked for; the state is saved.
    """
    runtime = ctx.config.runtime
    folder = ctx.work / name
    module.net.train()
    if module.optim.ema:
        module.ema = EMA(module.net, module.optim.ema)
    resume = newest_checkpoint(folder)
    start = int(resume.stem.split("-")[1]) if resume else 0
    if start < module.steps:
        loader = DataLoader(
            _Steps(module, ctx.rank, ctx.world_size), batch_size=None, sampler=_From(start, module.steps), num_workers=0
        )
        keeper = _Keeper(ctx, folder, runtime.checkpoint_every, runtime.log_every)
        trainer = _trainer(ctx, precision, keeper)
        trainer.fit(module, loader, ckpt_path=str(resume) if resume else None, weights_only=True)
        if keeper.stopped:
            raise Preempted
    elif resume:  # killed between the last step and the hand-over
        checkpoint = torch.load(resume, map_location="cpu", weights_only=True)
        module.load_state_dict(checkpoint["state_dict"])
        module.on_load_checkpoint(checkpoint)
    if module.ema is not None:
        module.ema.copy_to_module()
    if ctx.rank == 0:
        ctx.sink.progress(module.steps, module.steps, "step")


def write_curve(module: StageModule, ctx: StageContext, name: str = "loss_curve.json") -> None:
    """Record [step, loss, gradient norm] rows in the artifact (deterministic: no times)."""
    rows = [[int(s), round(v, 6), round(n, 6)] for s, v, n in module.curve]
    storage.write_atomic(ctx.out / name, json.dumps({"columns": ["step", "loss", "grad_norm"], "rows": rows}))


def tail_mean(module: StageModule, part: float = 0.1) -> float:
    """Mean loss over the last `part` of the steps: what a stage reports as its final loss."""
    values = [v for _, v, _ in module.curve]
    count = max(1, int(len(values) * part))
    return sum(values[-count:]) / count


def newest_checkpoint(folder: Path) -> Path | None:
    """The newest complete checkpoint; names are `step-NNNNNN.ckpt`, and a file has that name only once it is whole."""
    found = sorted(folder.glob("step-*.ckpt"))
    return found[-1] if found else None


def _trainer(ctx: StageContext, precision: str, keeper: Callback) -> L.Trainer:
    device = ctx.config.runtime.device
    cuda = torch.cuda.is_available() if device == "auto" else device == "cuda"
    distributed = ctx.world_size > 1
    return L.Trainer(
        accelerator="cuda" if cuda else "cpu",
        devices=int(os.environ.get("LOCAL_WORLD_SIZE", ctx.world_size)) if distributed else 1,
        strategy="ddp" if distributed else "auto",
        # never SLURMEnvironment: it would install its own requeue handler (notes/mlops §0.8)
        plugins=[TorchElasticEnvironment() if distributed else LightningEnvironment()],
        precision=precision,  # type: ignore[arg-type]
        max_epochs=1,
        callbacks=[keeper],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        inference_mode=False,
    )


class _Steps(Dataset):
    """Item i is this rank's share of global batch i."""

    def __init__(self, module: StageModule, rank: int, world_size: int) -> None:
        self.module, self.rank, self.world_size = module, rank, world_size

    def __getitem__(self, step: int) -> Batch:
        return {"step": step, **self.module.batch(step, self.rank, self.world_size)}


class _From(Sampler):
    """Steps `start` … `stop` - 1. Its length is `stop`: Lightning's restored loop already counts the first ones."""

    def __init__(self, start: int, stop: int) -> None:
        self.start, self.stop = start, stop

    def __iter__(self) -> Iterator[int]:
        return iter(range(self.start, self.stop))

    def __len__(self) -> int:
        return self.stop


class _Keeper(Callback):
    """Logs, saves complete checkpoints atomically, and stops all ranks together when one was asked to."""

    def __init__(self, ctx: StageContext, folder: Path, every: int, log_every: int) -> None:
        self.ctx, self.folder, self.every, self.log_every = ctx, folder, every, log_every
        self.stopped = False

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        assert isinstance(pl_module, StageModule)
        done, steps = pl_module.done, pl_module.steps
        if self.ctx.rank == 0:
            self.ctx.sink.progress(done, steps, "step")
            if done % self.log_every == 0 or done == steps:
                self.ctx.sink.metrics(done, _numbers(outputs))
        stop = self._any_rank(self.ctx.should_stop(), trainer)
        if stop or done % self.every == 0 or done == steps:
            self._save(trainer, done)
        if stop and done < steps:
            self.stopped = True
            trainer.should_stop = True

    def _any_rank(self, flag: bool, trainer: L.Trainer) -> bool:
        if trainer.world_size == 1:
            return flag
        return bool(trainer.strategy.reduce(torch.tensor(float(flag)), reduce_op="sum") > 0)

    def _save(self, trainer: L.Trainer, done: int) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / f"step-{done:07d}.ckpt"
        tmp = path.with_suffix(".tmp")
        trainer.save_checkpoint(tmp, weights_only=False)
        if trainer.is_global_zero:
            os.replace(tmp, path)
            for old in sorted(self.folder.glob("step-*.ckpt"))[:-KEEP_CHECKPOINTS]:
                old.unlink()
        trainer.strategy.barrier()


def _numbers(outputs: Any) -> dict[str, float]:
    return {k: float(v) for k, v in outputs.items()} if isinstance(outputs, Mapping) else {}
