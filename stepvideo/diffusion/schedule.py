"""Sampling times, as the released FlowMatchDiscreteScheduler makes them."""

from __future__ import annotations

import torch
from torch import Tensor


def sigmas(steps: int, shift: float = 1.0, reverse: bool = False) -> Tensor:
    """The `steps` + 1 times of the sampler, fp32 on the CPU: 0 (noise) … 1 (data), or 1 … 0 with `reverse`.

    With u = 1 … 0 in equal steps, s = shift·u / (1 + (shift − 1)·u); the times are 1 − s, or s with `reverse`. A
    shift above 1 spends more steps near the noise.

    Raises:
        ValueError: if `steps` < 1 or `shift` <= 0.
    """
    if steps < 1 or shift <= 0:
        raise ValueError(f"steps={steps}, shift={shift}: give at least one step and a shift above 0")
    u = torch.linspace(1, 0, steps + 1, dtype=torch.float32)
    s = shift * u / (1 + (shift - 1) * u)
    return s if reverse else 1 - s
