"""Everything that watches a training, from its config."""

from __future__ import annotations

from lightning.pytorch.callbacks import Callback

from stepvideo.stage import StageContext
from stepvideo.training.monitor.guard import Guard


def watchers(ctx: StageContext) -> list[Callback]:
    """The callbacks of a training stage; `ctx.config` is a `TrainStageConfig`."""
    return [Guard(ctx.config.guard)]
