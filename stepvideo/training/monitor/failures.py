"""Clips that could not be decoded: how many so far on the log lines, and which, with the reason, as events."""

from __future__ import annotations

from typing import Any

import torch.distributed as dist
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback

from stepvideo.data.source import Batch
from stepvideo.training.module import StageModule

NAMED = 20  # clips in one event


class Failures(Callback):
    """Of all ranks; looked at on log lines and before checkpoints, which keep the number."""

    def __init__(self) -> None:
        self.times = 0
        self._new: list[tuple[str, str]] = []

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        assert isinstance(pl_module, StageModule)
        module, ctx = pl_module, pl_module.ctx
        for part in batch["micro"]:
            self._new += part.get("failed", [])
        run = ctx.config.runtime
        if module.done % run.log_every and module.done % run.checkpoint_every and module.done < module.steps:
            return
        if module.parallel.any(bool(self._new)):
            found = self._gathered(module.parallel.data_rank)
            self.times += len(found)
            ctx.sink.event("samples_failed", step=module.done, times=len(found), clips=dict(found[:NAMED]))
        self._new = []
        if self.times and ctx.rank == 0:
            ctx.sink.metrics(module.done, {"samples_failed": self.times})

    def _gathered(self, data_rank: int) -> list[tuple[str, str]]:
        mine = data_rank, self._new
        found = [mine]
        if dist.is_initialized() and dist.get_world_size() > 1:
            found = [mine] * dist.get_world_size()
            dist.all_gather_object(found, mine)
        # ranks that share a data rank's samples all name them
        return [clip for failed in dict(found).values() for clip in failed]

    def state_dict(self) -> dict[str, Any]:
        return {"times": self.times}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.times = state_dict["times"]
