"""The random numbers of flow matching, as functions of (seed, step, sample)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from stepvideo.data.draw import rng
from stepvideo.diffusion.config import TimestepConfig
from stepvideo.diffusion.timesteps import from_uniform


@dataclass(frozen=True)
class Draws:
    """What is drawn for a sample besides noise.

    captions: probability of each kind. drop_captions: share that is replaced by the empty caption, for guidance.
    sample_posterior: latents are samples of the VAE's posterior, else its mean.
    """

    seed: int
    timesteps: TimestepConfig
    captions: Mapping[str, float]
    drop_captions: float = 0.1
    sample_posterior: bool = True


def gaussian(shape: Sequence[int], *key: int | str) -> Tensor:
    """Standard normal float32 of `shape`, a function of the key alone."""
    return torch.from_numpy(rng(*key).standard_normal(tuple(shape), dtype=np.float32))


def timesteps(cfg: TimestepConfig, seed: int, step: int, samples: Sequence[int], batch: int) -> Tensor:
    """[B] timesteps of samples `samples` of a global batch of `batch`: one from each of `batch` slices of the law.

    Stratifying lowers the variance of the batch's loss; slices are dealt anew every step.
    """
    deal = rng(seed, "timestep slices", step).permutation(batch)
    u = [(deal[i] + rng(seed, "timestep", step, i).random()) / batch for i in samples]
    return from_uniform(cfg, torch.tensor(u, dtype=torch.float64))
