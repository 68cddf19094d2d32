"""Optimizers, learning-rate schedule and the exponential moving average."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from stepvideo.training.config import OptimConfig


def optimizers(named: Iterable[tuple[str, nn.Parameter]], cfg: OptimConfig) -> list[torch.optim.Optimizer]:
    """AdamW for everything, or Muon for the matrices inside blocks and for convolutions, AdamW for the rest."""
    named = [(n, p) for n, p in named if p.requires_grad]
    muon = [p for n, p in named if cfg.name == "muon" and _for_muon(n, p)]
    chosen = {id(p) for p in muon}
    rest = [p for _, p in named if id(p) not in chosen]
    adamw = torch.optim.AdamW(
        rest, lr=cfg.lr, betas=(cfg.betas[0], cfg.betas[1]), weight_decay=cfg.weight_decay, foreach=True
    )
    return [adamw, FlatMuon(muon, cfg.muon_lr, cfg.weight_decay)] if muon else [adamw]


def _for_muon(name: str, p: nn.Parameter) -> bool:
    """Hidden matrices and filters; embeddings, tables and the layers next to pixels or latents are AdamW's."""
    if any(part in name for part in ("conv_in.", "decoder.conv_out.", "table", "embed")):
        return False
    return p.ndim > 2 or (p.ndim == 2 and "blocks" in name)


class FlatMuon(torch.optim.Muon):
    """torch's Muon, which takes matrices only, on filters too: each is seen as [out, in · taps], sharing memory."""

    def __init__(self, params: list[nn.Parameter], lr: float, weight_decay: float) -> None:
        self.sources = params
        self.views = [nn.Parameter(p.detach().flatten(1)) for p in params]
        super().__init__(self.views, lr=lr, weight_decay=weight_decay, momentum=0.95)

    def zero_grad(self, set_to_none: bool = True) -> None:
        for p in self.sources:
            p.grad = None

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        for view, p in zip(self.views, self.sources, strict=True):
            view.grad = None if p.grad is None else p.grad.flatten(1)
        return super().step(closure)


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
        self.params = list(module.parameters())
        self.shadow = [p.detach().clone().float() for p in self.params]

    @torch.no_grad()
    def update(self, step: int) -> None:
        decay = min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(self.shadow, [p.detach().float() for p in self.params], 1 - decay)

    def follow(self) -> None:
        """Move to where the parameters are now (Lightning moves them after a checkpoint was loaded)."""
        self.shadow = [s.to(p.device) for s, p in zip(self.shadow, self.params, strict=True)]

    @torch.no_grad()
    def copy_to_module(self) -> None:
        for p, s in zip(self.params, self.shadow, strict=True):
            p.copy_(s)

    def load(self, shadow: list[Tensor]) -> None:
        for mine, theirs in zip(self.shadow, shadow, strict=True):
            mine.copy_(theirs)
