"""Optimizers, learning-rate schedule and the exponential moving average."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from stepvideo.training.config import OptimConfig


def optimizers(named: Iterable[tuple[str, nn.Parameter]], cfg: OptimConfig) -> list[torch.optim.Optimizer]:
    """AdamW for everything, or Muon for the matrices inside blocks and AdamW for the rest."""
    named = [(n, p) for n, p in named if p.requires_grad]
    muon = [p for n, p in named if cfg.name == "muon" and p.ndim == 2 and "blocks" in n and "table" not in n]
    chosen = {id(p) for p in muon}
    rest = [p for _, p in named if id(p) not in chosen]
    adamw = torch.optim.AdamW(
        rest, lr=cfg.lr, betas=(cfg.betas[0], cfg.betas[1]), weight_decay=cfg.weight_decay, foreach=True
    )
    if not muon:
        return [adamw]
    return [adamw, torch.optim.Muon(muon, lr=cfg.muon_lr, weight_decay=cfg.weight_decay, momentum=0.95)]


def lr_factor(step: int, steps: int, cfg: OptimConfig) -> float:
    """Factor on the peak learning rate at `step` (from 0) of `steps`: linear warm-up, then constant or cosine."""
    warm = min(1.0, (step + 1) / cfg.warmup) if cfg.warmup else 1.0
    if cfg.decay == "constant":
        return warm
    return warm * (cfg.final + (1 - cfg.final) * 0.5 * (1 + math.cos(math.pi * min(1.0, step / max(1, steps)))))


class EMA:
    """Exponential moving average of a module's parameters, in float32; shorter memory while few steps are done."""

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay = decay
        self.params = [p for p in module.parameters()]
        self.shadow = [p.detach().clone().float() for p in self.params]

    @torch.no_grad()
    def update(self, step: int) -> None:
        decay = min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(self.shadow, [p.detach().float() for p in self.params], 1 - decay)

    @torch.no_grad()
    def copy_to_module(self) -> None:
        for p, s in zip(self.params, self.shadow, strict=True):
            p.copy_(s)

    def load(self, shadow: list[Tensor]) -> None:
        for mine, theirs in zip(self.shadow, shadow, strict=True):
            mine.copy_(theirs)
