"""Loss on held-out clips at fixed noise and timesteps: a number that moves when the model does (report §4.3, Eq. 6).

The training loss hardly tells whether a diffusion model learns, because its timesteps and noise are new every step.
Here every evaluation has the same clips, noise and timesteps, and a loss a noise level.

Legend: B levels of a clip in a batch, f latent frames, z channels, h w latent sides.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn

from stepvideo.data.flow_draws import gaussian
from stepvideo.data.source import Batch
from stepvideo.training.flow import flow_loss
from stepvideo.training.module import StageModule
from stepvideo.training.monitor.evaluating import evaluating
from stepvideo.training.monitor_config import ValidationConfig


class Clips(Protocol):
    """Held-out clips: x1 [1, f, z, h, w] and the DiT's text arguments [1, …] of each."""

    def __len__(self) -> int: ...
    def __call__(self, i: int) -> Batch: ...


@dataclass(frozen=True)
class Part:
    """Levels of one clip."""

    clip: int
    levels: list[int]
    batch: Batch
    counts: bool  # False: only keeps this rank in step with the others


def validation_batches(cfg: ValidationConfig, clips: Clips, rank: int = 0, ranks: int = 1) -> Iterator[Part]:
    """What data-parallel rank `rank` of `ranks` computes: every `ranks`-th clip, `cfg.batch` levels at once.

    A batch never mixes clips: the loss of a clip does not depend on the number of ranks, to the bit. All ranks get
    equally many batches of equally many levels.
    """
    levels = list(range(cfg.levels))
    for first in range(0, len(clips), ranks):
        counts = first + rank < len(clips)
        i = first + rank if counts else 0
        x1_and_text = clips(i)
        x1: Tensor = x1_and_text["x1"]
        for start in range(0, cfg.levels, cfg.batch):
            chosen = levels[start : start + cfg.batch]
            batch = {k: v.expand(len(chosen), *v.shape[1:]) for k, v in x1_and_text.items()}
            batch["x0"] = torch.stack([gaussian(x1.shape[1:], cfg.seed, "validation", i, level) for level in chosen])
            batch["t"] = torch.tensor([(level + 0.5) / cfg.levels for level in chosen])
            yield Part(i, chosen, batch, counts)


class Validation(Callback):
    """Logs val_loss and val_loss_t0, val_loss_t1, … (with averaged weights val_loss_ema…): before the first step, every
    `cfg.every` steps and after the last.

    Args:
        clips: how many held-out clips there are, and what gives one; on every rank the same (`held_out.HeldOut`).
        loss: the loss [B] of a network on a batch.
    """

    def __init__(
        self,
        cfg: ValidationConfig,
        clips: Clips,
        loss: Callable[[nn.Module, Batch], Tensor] = flow_loss,
    ) -> None:
        self.cfg, self.clips, self.loss = cfg, clips, loss

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Batch, batch_idx: int) -> None:
        assert isinstance(pl_module, StageModule)
        if batch["step"] == 0:
            with pl_module.recorder.span("validation"):
                self.measure(trainer, pl_module)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        assert isinstance(pl_module, StageModule)
        done, every = pl_module.done, self.cfg.every
        if (every and done % every == 0) or done == pl_module.steps:
            with pl_module.recorder.span("validation"):
                self.measure(trainer, pl_module)

    def measure(self, trainer: Trainer, module: StageModule) -> dict[str, float]:
        """What is logged, by name. All ranks call it together."""
        values: dict[str, float] = {}
        kinds = {"live": [False], "ema": [True], "both": [False, True]}[self.cfg.weights]
        for averaged in kinds if module.ema is not None else [False]:
            name = "val_loss_ema" if averaged else "val_loss"
            levels = self.losses(trainer, module, averaged).mean(0).tolist()
            values[name] = sum(levels) / len(levels)
            values |= {f"{name}_t{i}": v for i, v in enumerate(levels)}
        if module.ctx.rank == 0:
            module.ctx.sink.metrics(module.done, values)
        return values

    def losses(self, trainer: Trainer, module: StageModule, averaged: bool = False) -> Tensor:
        """[clips, levels] float64 on the CPU, on every rank the same."""
        parallel = module.parallel
        found = torch.zeros(len(self.clips), self.cfg.levels, dtype=torch.float64, device=parallel.device)
        parts = validation_batches(self.cfg, self.clips, parallel.data_rank, parallel.data_size)
        with evaluating(trainer, module, averaged) as net:
            for part in parts:
                each = self.loss(net, trainer.strategy.batch_to_device(part.batch))
                if part.counts:
                    found[part.clip, part.levels] = each.double()
        return (parallel.mean(found) * parallel.data_size).cpu()
