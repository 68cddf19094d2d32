"""Sampling times, and the guided Euler loop on a linear velocity field.

The field of `k` (cond, uncond) is v_k(x, t)[b,f,d,h,w] = Σ_c W_k[d,c] · x[b,f,c,h,w] + t · b_k[d].
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from stepvideo.diffusion.config import GuidanceConfig
from stepvideo.diffusion.guidance import sample
from stepvideo.diffusion.schedule import sigmas
from stepvideo.inference.parity.compare import Tolerance
from stepvideo.inference.parity.golden import Asked, Case, NotUnderstood

TABLE = Tolerance(1e-6)
LOOP = Tolerance(1e-4, 1e-5)


def times(config: Asked[Any]) -> Tensor:
    """The schedule that a case or an entry of one describes, [steps + 1]."""
    return sigmas(config["steps"], config["time_shift"], config.get("reverse", False))


def tables(case: Case) -> Iterator[tuple[str, Tensor, Tolerance]]:
    """`sigmas_<key>` and `timesteps_<key>` of every entry of `combos`."""
    for entry in case.config["combos"]:
        e: Asked[Any] = Asked(entry, f"{case.name}.json: an entry of combos")
        key, table = e["key"], times(e)
        if e.rest():
            raise NotUnderstood(f"{key}: {', '.join(e.rest())} not understood")
        yield f"sigmas_{key}", table, TABLE
        yield f"timesteps_{key}", table[:-1], TABLE


def loop(case: Case) -> Iterator[tuple[str, Tensor, Tolerance]]:
    """`sigmas`, `timesteps`, `trajectory` (x after each step) and `final`."""
    case.config.skip("velocity")
    table = times(case.config)
    yield "sigmas", table, TABLE
    yield "timesteps", table[:-1], TABLE
    trajectory: list[Tensor] = []
    guidance = GuidanceConfig(scale=case.config["guidance_scale"])
    sides = [{"weight": case.inputs[f"W_{k}"], "bias": case.inputs[f"b_{k}"]} for k in ("cond", "uncond")]
    done = sample(
        _velocity,
        case.inputs["x0"],
        table,
        *sides,
        guidance=guidance,
        batched=False,  # a field has one matrix, not one a sample
        on_step=lambda _, x: trajectory.append(x),
    )
    yield "trajectory", torch.stack(trajectory), LOOP
    yield "final", done.latents, LOOP


def _velocity(hidden_states: Tensor, timestep: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    out = torch.einsum("dc,bfchw->bfdhw", weight, hidden_states)
    return out + (timestep[:, None] * bias)[:, None, :, None, None]
