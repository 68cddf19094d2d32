"""What the ranks of a training do: five AdamW steps together, against the record of one process alone."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from parallel_cases import inputs, network
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from stepvideo.models.config import DiTConfig
from stepvideo.parallel.config import TrainParallelConfig
from stepvideo.parallel.train import TrainParallel

STEPS, BATCH, LR, EPS, CLIP = 5, 7, 1e-3, 1e-4, 0.5
SIZES = [(3, 3, 1), (1, 2, 2), (1, 1, 7)]  # frames, height, width of a latent; one a step
Result = dict[str, Any]  # "losses", "norms": a number a step; "grads": tensors by name a step; "parameters": by name


@dataclass(frozen=True)
class Variant:
    """Around one plan: how activations are recomputed, and how many micro-batches a step has."""

    checkpointing: str = "none"
    accumulate: int = 1


def batch(cfg: DiTConfig, step: int) -> tuple[dict[str, Tensor], Tensor]:
    """The global batch of a step: arguments of the DiT, and what it should answer."""
    args = inputs(cfg, SIZES[step % len(SIZES)], BATCH)
    draw = torch.Generator().manual_seed(100 + step)
    target = torch.randn(args["hidden_states"].shape, generator=draw)
    return args | {"hidden_states": torch.randn(target.shape, generator=draw)}, target


def optimizer(net: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.AdamW(net.parameters(), LR, eps=EPS, weight_decay=0.1)


def alone(cfg: DiTConfig, path: Path) -> None:
    """Train in this process, with nothing but torch, and write its record."""
    net = network(cfg)
    opt = optimizer(net)
    record: Result = {"losses": [], "norms": [], "grads": []}
    for step in range(STEPS):
        args, target = batch(cfg, step)
        loss = (net(**args) - target).square().mean()
        opt.zero_grad()
        loss.backward()
        record["norms"].append(float(nn.utils.clip_grad_norm_(net.parameters(), CLIP)))
        record["losses"].append(float(loss.detach()))
        record["grads"].append({n: p.grad.clone() for n, p in net.named_parameters() if p.grad is not None})
        opt.step()
    torch.save(record | {"parameters": {n: p.detach() for n, p in net.named_parameters()}}, path)


def together(
    cfg: DiTConfig, plan: TrainParallelConfig, variants: list[Variant], path: Path, world_size: int
) -> dict[Variant, dict[str, float]]:
    """Largest gap of losses, norms, gradients and parameters to the record at `path`."""
    expected = torch.load(path, weights_only=True)
    return {v: compare(train(cfg, plan, v, world_size), expected) for v in variants}


def train(cfg: DiTConfig, plan: TrainParallelConfig, variant: Variant, world_size: int) -> Result:
    parallel = TrainParallel.start(replace(plan, checkpointing=variant.checkpointing), world_size, "cpu", 30)
    net = network(cfg)
    parallel.divide(net, precision="32-true")
    opt = optimizer(net)
    result: Result = {"losses": [], "norms": [], "grads": []}
    for step in range(STEPS):
        opt.zero_grad(set_to_none=True)
        total = torch.zeros(())
        args, target = batch(cfg, step)
        for j in range(variant.accumulate):
            ranks, parts = parallel.data_size, parallel.data_size * variant.accumulate
            own = list(range(parallel.data_rank * variant.accumulate + j, BATCH, parts))
            parallel.micro_batch([net], first=j == 0, last=j == variant.accumulate - 1)
            loss = (net(**{k: v[own] for k, v in args.items()}) - target[own]).square().mean()
            if step == 0:
                net(**inputs(cfg, (2, 1, 3), 1))  # of another size before the backward, as with several buckets
            loss = loss * (len(own) / BATCH) * ranks
            loss.backward()
            total += loss.detach()
        parallel.finish_gradients([net])
        result["norms"].append(float(parallel.clip_(net.parameters(), CLIP)))
        result["losses"].append(float(parallel.mean(total)))
        result["grads"].append({n: p.grad for n, p in net.named_parameters() if p.grad is not None})
        opt.step()
    result["parameters"] = {n: p.detach() for n, p in net.named_parameters()}
    return result


def gap(found: Tensor, expected: Tensor) -> float:
    """Of this rank's part, relative to the largest value of the whole."""
    assert found.shape == expected.shape and found.dtype == expected.dtype
    largest = expected.abs().max()
    if isinstance(found, DTensor):
        expected = distribute_tensor(expected, found.device_mesh, found.placements, src_data_rank=None).to_local()
        found = found.to_local()
    return float((found - expected).abs().max() / largest) if found.numel() else 0.0


def compare(found: Result, expected: Result) -> dict[str, float]:
    """Relative to the largest value of each tensor."""
    named = [("parameter", found["parameters"], expected["parameters"])]
    named += [(f"gradient {i}", *pair) for i, pair in enumerate(zip(found["grads"], expected["grads"], strict=True))]
    gaps: dict[str, float] = {}
    for kind, ours, theirs in named:
        assert ours.keys() == theirs.keys()
        gaps |= {f"{kind} {name}": gap(ours[name], theirs[name]) for name in theirs}
    for kind in ("losses", "norms"):
        pairs = zip(found[kind], expected[kind], strict=True)
        gaps |= {f"{kind} {i}": abs(a / b - 1) for i, (a, b) in enumerate(pairs)}
    return gaps
