"""The training loss by timestep: which noise levels the network still learns."""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from stepvideo.data.source import Batch
from stepvideo.training.module import StageModule

DECAY = 0.99  # a step: a mean over about the last 100


class LossByTime(Callback):
    """Running means of the losses of samples in equal slices of t, logged as loss_t0, loss_t1, ….

    They are what `loss` leaves in `batch["each"]` [B]; `batch["t"]` [B] says where they belong.

    Sums stay on the device and are read on log lines only. A slice that has seen no sample is left out.
    """

    def __init__(self, bins: int) -> None:
        self.bins = bins
        self.sums = torch.zeros(2, bins, dtype=torch.float64)  # of losses and of samples, of this rank

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        assert isinstance(pl_module, StageModule)
        self.module = pl_module
        self.sums = self.sums.to(self.module.parallel.device)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        self.sums *= DECAY
        for part in batch["micro"]:
            if part["share"] and "each" in part and "t" in part:
                self.add(part["t"], part["each"])
        module = self.module
        if module.done % module.ctx.config.runtime.log_every == 0 or module.done == module.steps:
            values = self.means()
            if values and module.ctx.rank == 0:
                module.ctx.sink.metrics(module.done, values)

    def add(self, t: Tensor, each: Tensor) -> None:
        """Losses [B] at timesteps [B]. What is not finite is the guard's business."""
        each = each.detach().double()
        bins = (t * self.bins).long().clamp(0, self.bins - 1)
        self.sums[0].index_add_(0, bins, each.nan_to_num(0.0, 0.0, 0.0))
        self.sums[1].index_add_(0, bins, each.isfinite().double())

    def means(self) -> dict[str, float]:
        """All ranks call it together."""
        return {f"loss_t{i}": s / n for i, (s, n) in enumerate(self._total().T.tolist()) if n > 1e-6}

    def state_dict(self) -> dict[str, Any]:
        """The same on every rank: all call it together, as for any checkpoint."""
        return {"sums": self._total().tolist()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        sums = torch.tensor(state_dict["sums"], dtype=torch.float64)
        self.sums = sums.to(self.sums.device) / self.module.parallel.data_size

    def _total(self) -> Tensor:
        return self.module.parallel.mean(self.sums) * self.module.parallel.data_size
