"""What every DiT stage shares: the velocity loss of a batch, the hand-over of a model.

Legend: B samples of a rank, f latent frames, z channels, h w latent sides.
"""

from __future__ import annotations

import shutil
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor

from stepvideo.data.source import Batch
from stepvideo.diffusion.config import SamplingConfig
from stepvideo.diffusion.latent_stats import STATS_FILE
from stepvideo.diffusion.objectives import velocity_loss
from stepvideo.diffusion.path import interpolate, velocity
from stepvideo.diffusion.sampling import Sampling
from stepvideo.models.checkpoints import save_dit, save_model_index, save_scheduler
from stepvideo.models.dit import DiT
from stepvideo.models.weights import Value, same

TEXT_KEYS = ("encoder_hidden_states", "encoder_hidden_states_2", "encoder_attention_mask")


def flow_loss(dit: torch.nn.Module, batch: Batch) -> Tensor:
    """Velocity loss [B] at the batch's noise and timesteps; batch has x0, x1 [B, f, z, h, w], t [B] and the text."""
    return velocity_loss(predict(dit, batch, batch["x0"], batch["x1"], batch["t"]), velocity(batch["x0"], batch["x1"]))


def predict(dit: torch.nn.Module, batch: Batch, x0: Tensor, x1: Tensor, t: Tensor) -> Tensor:
    """The network's velocity at X_t, with the batch's text."""
    return dit(hidden_states=interpolate(x0, x1, t), timestep=t, **{k: batch[k] for k in TEXT_KEYS})


def save_model(
    dit: DiT,
    out: Path,
    like: Path,
    sampling: SamplingConfig | None = None,
    size: dict[str, int] | None = None,
    value: Value = same,
) -> None:
    """Write a whole hand-over: transformer/ with latent statistics, scheduler/, model_index.json, sampling.json.

    Args:
        like: a model or latent-cache artifact; its statistics, and what `sampling` and `size` leave open, are kept.
        value: see `save_tensors`.
    """
    save_dit(dit, out, value=value)
    save_scheduler(out)
    save_model_index(out, dit.cfg.use_additional_conditions)
    for stats in (like / STATS_FILE, like / Path(STATS_FILE).name):
        if stats.exists():  # a released model has none: its latents are not normalised
            shutil.copyfile(stats, out / STATS_FILE)
            break
    known = Sampling.read(like)
    known.with_({**(asdict(sampling) if sampling else {}), **(size or {})}).write(out)
