"""Models kept along the way, for selection and averaging (report §8)."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any, cast

import lightning as L
from lightning.pytorch.callbacks import Callback

from stepvideo import storage
from stepvideo.models.checkpoints import save_dit
from stepvideo.models.dit import DiT
from stepvideo.stage import StageContext
from stepvideo.training import lora
from stepvideo.training.module import StageModule


class Snapshots(Callback):
    """Keeps `count` models evenly spaced, with averaged weights where there are any; the last is the stage's result."""

    def __init__(self, module: StageModule, ctx: StageContext, count: int) -> None:
        self.module, self.ctx = module, ctx
        self.at = [module.steps * (i + 1) // count for i in range(count)][:-1]

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        step = self.module.done
        if step not in self.at or self.module.parallel.agree(self._path(step).exists):
            return
        with self.module.averaged():
            whole = self.module.parallel.whole(self.module.net)
        if whole is None:
            return
        tmp = self.ctx.work / "snapshot.tmp"
        shutil.rmtree(tmp, ignore_errors=True)
        lora.merge(whole)
        save_dit(cast(DiT, whole), tmp)
        self._path(step).parent.mkdir(exist_ok=True)
        tmp.rename(self._path(step))

    def hand_over(self) -> None:
        """Put them into the artifact."""
        for step in self.at:  # linked, not moved: a run that is killed from here on needs them again
            for path in storage.tree(self._path(step)):
                storage.link_or_copy(path, self.ctx.out / path.relative_to(self.ctx.work))

    def _path(self, step: int) -> Path:
        return self.ctx.work / "snapshots" / f"step-{step:07d}"
