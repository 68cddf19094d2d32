"""Laws of the training timestep, by inverse CDF: uniform numbers in, timesteps out.

A caller that needs counter-based sampling (the same t for sample i of step n, whatever the partition) brings its own
uniforms.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from stepvideo.diffusion.config import TimestepConfig


def logit_normal(u: Tensor, mean: float = 0.0, std: float = 1.0) -> Tensor:
    """t with logit(t) ~ N(mean, std²)."""
    return torch.sigmoid(mean + std * torch.special.ndtri(u))


def u_shape(u: Tensor, a: float = 5.0) -> Tensor:
    """p(t) ∝ exp(a·t) + exp(a·(1 − t)): high at both ends, as the report's §5 says in words.

    The printed p ∝ exp(a·u) + exp(−a·u) is monotone on [0, 1]; see `cosh_literal`. F(t) = ½ + sinh(a(t − ½)) /
    (2·sinh(a/2)).
    """
    return 0.5 + torch.asinh((2 * u - 1) * math.sinh(a / 2)) / a


def cosh_literal(u: Tensor, a: float = 5.0) -> Tensor:
    """p(t) ∝ exp(a·t) + exp(−a·t), the formula as printed in the report's §5; F(t) = sinh(a·t) / sinh(a)."""
    return torch.asinh(u * math.sinh(a)) / a


def time_shift(t: Tensor, shift: float) -> Tensor:
    """The sampler's shift as a map of t: with s = 1 − t, s' = shift·s / (1 + (shift − 1)·s)."""
    return t / (1 + (shift - 1) * (1 - t))


def from_uniform(cfg: TimestepConfig, u: Tensor) -> Tensor:
    """Timesteps of the law `cfg` at uniform numbers `u` in [0, 1), same shape, computed in fp64, returned in fp32."""
    u = u.double()
    if cfg.law == "logit_normal":
        t = logit_normal(u.clamp(1e-12, 1 - 1e-12), cfg.mean, cfg.std)
    elif cfg.law == "u_shape":
        t = u_shape(u, cfg.a)
    elif cfg.law == "cosh_literal":
        t = cosh_literal(u, cfg.a)
    else:
        t = u
    return time_shift(t, cfg.shift).clamp(0, 1).float()


def sample_timesteps(cfg: TimestepConfig, n: int, generator: torch.Generator, stratified: bool = False) -> Tensor:
    """n timesteps [n] fp32 on the generator's device; `stratified` draws one from each of n equal slices, in random
    order."""
    u = torch.rand(n, generator=generator, device=generator.device, dtype=torch.float64)
    if stratified:
        u = (torch.randperm(n, generator=generator, device=generator.device) + u) / n
    return from_uniform(cfg, u)


def density(cfg: TimestepConfig, t: Tensor) -> Tensor:
    """p(t) of the law `cfg` for t in (0, 1), in fp64: for plots, tests and importance weights."""
    t = t.double()
    s = 1 - t
    base = cfg.shift * t / (1 + (cfg.shift - 1) * t)  # the t before the shift
    jacobian = cfg.shift / (cfg.shift * t + s) ** 2
    if cfg.law == "logit_normal":
        z = (torch.logit(base) - cfg.mean) / cfg.std
        p = torch.exp(-0.5 * z * z) / (cfg.std * math.sqrt(2 * math.pi) * base * (1 - base))
    elif cfg.law == "u_shape":
        p = cfg.a * torch.cosh(cfg.a * (base - 0.5)) / (2 * math.sinh(cfg.a / 2))
    elif cfg.law == "cosh_literal":
        p = cfg.a * torch.cosh(cfg.a * base) / math.sinh(cfg.a)
    else:
        p = torch.ones_like(base)
    return p * jacobian
