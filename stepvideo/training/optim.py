"""Optimizers, learning-rate schedule, exponential moving average; on whole and on divided (DTensor) parameters."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, Replicate

from stepvideo.training.config import OptimConfig


def optimizers(named: Iterable[tuple[str, nn.Parameter]], cfg: OptimConfig) -> list[torch.optim.Optimizer]:
    """AdamW for everything, or Muon for the matrices inside blocks and for convolutions, AdamW for the rest."""
    named = [(n, p) for n, p in named if p.requires_grad]
    muon = [p for n, p in named if cfg.name == "muon" and _for_muon(n, p)]
    chosen = {id(p) for p in muon}
    rest = [p for _, p in named if id(p) not in chosen]
    betas = (cfg.betas[0], cfg.betas[1])
    adamw = torch.optim.AdamW(by_mesh(rest), lr=cfg.lr, betas=betas, weight_decay=cfg.weight_decay, foreach=True)
    return [adamw, Muon(muon, cfg.muon_lr, cfg.weight_decay)] if muon else [adamw]


def _for_muon(name: str, p: nn.Parameter) -> bool:
    """Hidden matrices and filters; embeddings, tables and the layers next to pixels or latents are AdamW's."""
    if any(part in name for part in ("conv_in.", "decoder.conv_out.", "table", "embed", "lora_")):
        return False
    return p.ndim > 2 or (p.ndim == 2 and "blocks" in name)


def by_mesh(params: Iterable[nn.Parameter]) -> list[dict[str, list[nn.Parameter]]]:
    """Parameter groups of one device mesh each: fused operations take no tensors of several meshes."""
    groups: dict[object, list[nn.Parameter]] = {}
    for p in params:
        groups.setdefault(p.device_mesh if isinstance(p, DTensor) else None, []).append(p)
    return [{"params": group} for group in groups.values()]


def local(x: Tensor) -> Tensor:
    """This rank's part of a divided tensor, sharing its memory."""
    return x.to_local() if isinstance(x, DTensor) else x


class Muon(torch.optim.Optimizer):
    """Momentum whose update is orthogonalised (Jordan et al. 2024), for matrices and for filters, seen as [out, rest].

    Of a divided parameter the whole update is gathered in bfloat16 and orthogonalised on every rank, so the result is
    that of one process. Equal to `torch.optim.Muon`, which takes undivided matrices only, to the bit.
    """

    def __init__(self, params: Iterable[nn.Parameter], lr: float, weight_decay: float, momentum: float = 0.95) -> None:
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    self._step(p, group["lr"], group["weight_decay"], group["momentum"])
        return loss

    def _step(self, p: nn.Parameter, lr: float, weight_decay: float, momentum: float) -> None:
        state = self.state[p]
        if not state:
            state["momentum"] = torch.zeros_like(p)
        grad = p.grad
        assert grad is not None
        mean = state["momentum"].lerp_(grad, 1 - momentum)
        nesterov = grad.lerp(mean, momentum).bfloat16()
        whole = nesterov.full_tensor() if isinstance(nesterov, DTensor) else nesterov
        update = orthogonal(whole.flatten(1)).view_as(whole)
        scale = math.sqrt(max(1, p.shape[0] / (p.numel() // p.shape[0])))
        local(p).mul_(1 - lr * weight_decay).add_(_own_part(update, p), alpha=-lr * scale)


def _own_part(whole: Tensor, like: Tensor) -> Tensor:
    if not isinstance(like, DTensor):
        return whole
    mesh = like.device_mesh
    return local(DTensor.from_local(whole, mesh, [Replicate()] * mesh.ndim).redistribute(placements=like.placements))


def orthogonal(matrix: Tensor, steps: int = 5, eps: float = 1e-7) -> Tensor:
    """About U V^T of a matrix U S V^T, in bfloat16: singular values come to lie between 0.7 and 1.2.

    Five steps of the Newton-Schulz iteration x <- a x + b (x x^T) x + c (x x^T)^2 x with Jordan's coefficients.
    """
    a, b, c = 3.4445, -4.7750, 2.0315
    tall = matrix.size(0) > matrix.size(1)
    x = matrix.bfloat16()
    x = x.T if tall else x
    x = x / x.norm().clamp(min=eps)
    for _ in range(steps):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.T if tall else x


def lr_factor(step: int, steps: int, cfg: OptimConfig) -> float:
    """Factor on the peak learning rate at `step` (from 0) of `steps`: linear warm-up, then constant or cosine."""
    warm = min(1.0, (step + 1) / cfg.warmup) if cfg.warmup else 1.0
    if cfg.decay == "constant":
        return warm
    return warm * (cfg.final + (1 - cfg.final) * 0.5 * (1 + math.cos(math.pi * min(1.0, step / max(1, steps)))))


class EMA:
    """Exponential moving average of a module's parameters, in float32; shorter memory while few steps are done.

    `shadow` holds it by parameter name, divided as the parameters are.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay = decay
        given = getattr(module, "given", ())
        self.params = {n: p for n, p in module.named_parameters() if n not in given}
        self.shadow = {n: p.detach().clone().float() for n, p in self.params.items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        decay = min(self.decay, (1 + step) / (10 + step))
        now = [local(p).float() for p in self.params.values()]
        torch._foreach_lerp_([local(s) for s in self.shadow.values()], now, 1 - decay)

    def follow(self) -> None:
        """Move to the device where the parameters are now."""
        self.shadow = {n: s.to(self.params[n].device) for n, s in self.shadow.items()}

    @torch.no_grad()
    def copy_to_module(self) -> None:
        for name, p in self.params.items():
            p.copy_(self.shadow[name])
