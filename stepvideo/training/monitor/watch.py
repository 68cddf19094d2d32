"""Everything that watches a training, from its config."""

from __future__ import annotations

from lightning.pytorch.callbacks import Callback

from stepvideo.stage import StageContext
from stepvideo.training.monitor.cost import CostOf, samples_only
from stepvideo.training.monitor.curves import LossByTime
from stepvideo.training.monitor.failures import Failures
from stepvideo.training.monitor.guard import Guard
from stepvideo.training.monitor.norms import Norms
from stepvideo.training.monitor.profiling import ProfileSteps
from stepvideo.training.monitor.speed import Speed
from stepvideo.training.monitor.validation import Clips, Validation
from stepvideo.training.monitor_config import MonitorConfig


def watchers(
    ctx: StageContext, cost: CostOf = samples_only, held_out: Clips | None = None, name: str = "fit"
) -> list[Callback]:
    """The callbacks of a training stage, for `fit(…, callbacks=[*watchers(…), …])`; `ctx.config` is its config.

    Args:
        cost: of a micro-batch (`cost.dit_cost`); without it there are no tokens and no MFU.
        held_out: clips for validation (`held_out.HeldOut`); without them there is none.
        name: of the training, where a stage has several.
    """
    cfg: MonitorConfig = ctx.config.runtime.monitor
    speed = Speed(cost, cfg.peak_tflops)
    if cfg.profile_steps:
        return [speed, ProfileSteps(cfg.profile_steps, speed)]
    found: list[Callback] = [speed, Guard(ctx.config.guard, name), Failures()]
    if cfg.time_bins:
        found.append(LossByTime(cfg.time_bins))
    if cfg.norms_every:
        found.append(Norms(cfg.norms_every))
    if held_out is not None and len(held_out):
        found.append(Validation(cfg.validation, held_out))
    return found
