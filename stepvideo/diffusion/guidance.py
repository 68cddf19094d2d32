"""Classifier-free guidance and the sampling loop."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from stepvideo.diffusion.config import GuidanceConfig
from stepvideo.diffusion.solvers import euler

VelocityFn = Callable[..., Tensor]
Conditions = Mapping[str, Any]


def scale_at(cfg: GuidanceConfig, t: float) -> float:
    """The guidance scale at time t: constant, or max(cfg_max − 9·t·(cfg_max − 1), 1) (report Eq. 11), which is 1 from
    t = 1/9."""
    if cfg.kind == "diminishing":
        return max(cfg.scale - 9 * t * (cfg.scale - 1), 1.0)
    return cfg.scale


def evaluations(cfg: GuidanceConfig, times: Tensor) -> int:
    """Network evaluations a sample costs on the schedule `times` [steps + 1]: two a guided step, one at scale 1."""
    return sum(1 if scale_at(cfg, float(t)) == 1 else 2 for t in times[:-1])


def combine(v_cond: Tensor, v_uncond: Tensor, scale: float) -> Tensor:
    """v_u + scale·(v_c − v_u), in fp32."""
    return v_uncond.float() + scale * (v_cond.float() - v_uncond.float())


@dataclass
class Sampled:
    """The result of `sample`: latents [b, …] fp32, the number of steps and of network evaluations a sample (NFE)."""

    latents: Tensor
    steps: int
    nfe: int


def join(cond: Conditions, uncond: Conditions) -> dict[str, Any]:
    """Both sets of model arguments as one batch, the conditional half first; what is no tensor of samples must be
    equal.

    Raises:
        ValueError: names an argument that only one side has, or whose shapes or values differ.
    """
    if cond.keys() != uncond.keys():
        raise ValueError(f"guidance: arguments {sorted(cond.keys() ^ uncond.keys())} are given on one side only")
    joined: dict[str, Any] = {}
    for name, c in cond.items():
        u = uncond[name]
        if isinstance(c, Tensor) and c.ndim:
            if not isinstance(u, Tensor) or u.shape != c.shape:
                raise ValueError(
                    f"guidance: {name} is {list(c.shape)} with and {getattr(u, 'shape', u)} without the prompt"
                )
            joined[name] = torch.cat([c, u])
        elif type(c) is type(u) and bool(c == u):
            joined[name] = c
        else:
            raise ValueError(f"guidance: {name} is {c!r} with and {u!r} without the prompt; it must be the same")
    return joined


@torch.no_grad()
def sample(
    velocity: VelocityFn,
    noise: Tensor,
    times: Tensor,
    cond: Conditions,
    uncond: Conditions | None = None,
    guidance: GuidanceConfig | None = None,
    *,
    batched: bool = True,
    on_step: Callable[[int, Tensor], None] | None = None,
) -> Sampled:
    """Integrate dx/dt = velocity from noise to data with Euler steps.

    Args:
        velocity: called as `velocity(hidden_states=x, timestep=t, **arguments)` with x [b, …] fp32 and t [b] fp32; a
            `DiT` fits. Autocast and the model's dtype are the caller's.
        noise: X0 [b, …].
        times: [steps + 1], from `schedule.sigmas`.
        cond: the model's other arguments with the prompt; tensors have the batch of `noise`.
        uncond: the same with the empty or negative prompt; needed where the scale is not 1. Both have equal shapes.
        guidance: None means scale 1.
        batched: evaluate both halves in one call (faster on a GPU) or one after the other (half the memory).
        on_step: called with (i, x) after step i.

    Raises:
        ValueError: if guidance is asked for without `uncond`, or `cond` and `uncond` do not fit together.
    """
    guidance = guidance or GuidanceConfig(scale=1.0)
    scales = [scale_at(guidance, t) for t in times[:-1].tolist()]
    if uncond is None and any(s != 1 for s in scales):
        raise ValueError(f"guidance scale {guidance.scale} needs `uncond`: encode the negative (or empty) prompt")
    both = join(cond, uncond) if uncond is not None and batched and any(s != 1 for s in scales) else None
    x, nfe, b = noise.float(), 0, noise.shape[0]
    steps = times.to(device=x.device, dtype=torch.float32)
    for i, scale in enumerate(scales):
        t = steps[i].expand(b)
        if scale == 1:
            v = velocity(hidden_states=x, timestep=t, **cond)
            nfe += 1
        elif both is not None:
            v_cond, v_uncond = velocity(hidden_states=torch.cat([x, x]), timestep=torch.cat([t, t]), **both).chunk(2)
            v = combine(v_cond, v_uncond, scale)
            nfe += 2
        else:
            v_cond = velocity(hidden_states=x, timestep=t, **cond)
            v = combine(v_cond, velocity(hidden_states=x, timestep=t, **(uncond or {})), scale)
            nfe += 2
        x = euler(x, v, steps[i + 1] - steps[i])
        if on_step is not None:
            on_step(i, x)
    return Sampled(x, len(scales), nfe)
