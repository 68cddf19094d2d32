"""What the ranks of a training do beside equality: who holds and sends what, and what is refused."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any
from unittest import mock

import torch
import train_cases as cases
from parallel_cases import inputs, network
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.distributed.tensor.debug import CommDebugMode
from train_cases import Variant

from stepvideo.models import attention
from stepvideo.models.config import DiTConfig, VAEConfig
from stepvideo.models.video_vae import VideoVAE
from stepvideo.parallel import gradients, sequence, train
from stepvideo.parallel.config import TrainParallelConfig
from stepvideo.parallel.train import TrainParallel

Counts = dict[str, int]
FAULTS: dict[str, Any] = {
    "parts not added up": lambda: mock.patch.object(train, "add_up", lambda *_: None),
    "parts added up twice": lambda: mock.patch.object(train, "add_up", _twice),
    "tokens' part of the time": lambda: mock.patch.object(sequence._Sequence, "time", lambda *_: None),
}


def _twice(grads: Any, group: Any) -> None:
    for _ in range(2):
        gradients.add_up(grads, group)


def faulty(fault: str, cfg: DiTConfig, plan: TrainParallelConfig, path: Any, world_size: int) -> dict[str, float]:
    """The gaps of a training with something left out."""
    with FAULTS[fault]():
        return cases.together(cfg, plan, [Variant()], path, world_size)[Variant()]


def started(plan: TrainParallelConfig, world_size: int) -> TrainParallel:
    return TrainParallel.start(plan, world_size, "cpu", 30)


def exchanges(cfg: DiTConfig, plan: TrainParallelConfig, world_size: int) -> list[tuple[Counts, Counts]]:
    """Collectives of forward and of backward, in each of a step's three micro-batches; of the second step."""
    parallel, net = started(plan, world_size), network(cfg)
    parallel.divide(net, precision="32-true")
    counts = []
    for _ in range(2):
        counts.clear()
        for j in range(3):
            parallel.micro_batch([net], first=j == 0, last=j == 2)
            with CommDebugMode() as forward:
                loss = net(**inputs(cfg, (2, 2, 2), 1)).square().mean()
            with CommDebugMode() as backward:
                loss.backward()
            counts.append((_counts(forward), _counts(backward)))
    return counts


def _counts(mode: CommDebugMode) -> Counts:
    return {str(k).split(".")[-1].strip("_"): n for k, n in mode.get_comm_counts().items() if n}


def held(cfg: DiTConfig, plan: TrainParallelConfig, world_size: int) -> dict[str, float]:
    """Bytes of parameters and of AdamW's state that this rank holds after a step, as shares of the whole; whether
    gathered weights are gone after a step and after a forward without gradients."""
    parallel, net = started(plan, world_size), network(cfg)
    whole = sum(p.nbytes for p in net.parameters())
    parallel.divide(net, precision="32-true")
    opt = torch.optim.AdamW(net.parameters(), 1e-3)
    parallel.micro_batch([net], first=True, last=True)
    net(**inputs(cfg, (2, 2, 2), 1)).square().mean().backward()
    at_rest = _at_rest(net)
    opt.step()
    with torch.no_grad():
        net(**inputs(cfg, (2, 2, 2), 1))
    state = [v for s in opt.state.values() for v in s.values() if v.ndim]
    return {
        "parameters": sum(_bytes(p) for p in net.parameters()) / whole,
        "optimizer": sum(_bytes(v) for v in state) / whole,
        "at rest": at_rest and _at_rest(net),
    }


def _at_rest(net: nn.Module) -> bool:
    return all(isinstance(p, DTensor) for p in net.parameters())


def _bytes(x: Tensor) -> int:
    return x.to_local().nbytes if isinstance(x, DTensor) else x.nbytes


def undivided(cfg: DiTConfig, plan: TrainParallelConfig, world_size: int) -> tuple[bool, bool]:
    """Whether `whole` gives the weights back, on rank 0 only, and names are those of the network before."""
    parallel, net, before = started(plan, world_size), network(cfg), network(cfg)
    parallel.divide(net, precision="32-true")
    with torch.no_grad():
        for p in net.parameters():
            p.mul_(2)
    names = [n for n, _ in net.named_parameters()] == [n for n, _ in before.named_parameters()]
    names &= list(net.state_dict()) == list(before.state_dict())
    found = parallel.whole(net)
    if found is None:
        return parallel.rank > 0, names
    args = inputs(cfg, (2, 2, 2), 1)
    same = all(torch.equal(found.state_dict()[k], 2 * v) for k, v in before.state_dict().items())
    return same and bool(found(**args).isfinite().all()), names


def mixed(cfg: DiTConfig, precision: str, plan: TrainParallelConfig, world_size: int) -> tuple[float, float, str, str]:
    """Gap of loss and of the worst gradient to fp32's, the dtype in the blocks, and of the parameters."""
    parallel, net, alone = started(plan, world_size), network(cfg), network(cfg)
    parallel.divide(net, precision=precision)
    seen = []
    net.transformer_blocks[-1].register_forward_pre_hook(lambda _, args: seen.append(args[0].dtype))
    args = inputs(cfg, (4, 2, 2), 2)
    target = torch.randn(args["hidden_states"].shape, generator=torch.Generator().manual_seed(2))
    parallel.micro_batch([net], True, True)
    losses = [(n(**args).float() - target).square().mean() for n in (net, alone)]
    for loss in losses:
        loss.backward()
    parallel.finish_gradients([net])
    reference = {n: p.grad for n, p in alone.named_parameters() if p.grad is not None}
    gaps = [cases.gap(p.grad, reference[n]) for n, p in net.named_parameters() if p.grad is not None]
    (dtype,) = {p.dtype for p in net.parameters()}
    return float((losses[0] / losses[1]).detach()) - 1, max(gaps), str(seen[0]), str(dtype)


def by_methods(world_size: int, zero: int) -> float:
    """Of a network whose `forward` is not what is called, part of it frozen for one step: the worst gradient's gap."""
    ones = [1, 1, 1, 1]
    torch.manual_seed(0)
    net = VideoVAE(VAEConfig(3, 4, 8, ones, 8, ones, num_groups=4))
    alone = copy.deepcopy(net)
    parallel = started(TrainParallelConfig(zero=zero), world_size)
    parallel.divide(net, precision="32-true", methods=("encode_moments", "decode"))
    x = torch.randn(2, 9, 3, 16, 16)
    worst = 0.0
    for frozen in (True, False):
        for n in (net, alone):
            n.zero_grad()
            n.encoder.requires_grad_(not frozen)
        parallel.micro_batch([net], True, True)
        for n, own in ((net, x[[parallel.data_rank]]), (alone, x)):
            (n.decode(n.encode_moments(own).chunk(2, 2)[0]) - own).square().mean().backward()
        expected = {name: p.grad for name, p in alone.named_parameters() if p.grad is not None}
        found = {name: p.grad for name, p in net.named_parameters() if p.grad is not None}
        assert found.keys() == expected.keys()
        known = [name for name in expected if not name.endswith("k.conv.bias")]  # theirs is 0: softmax ignores a shift
        worst = max(worst, *(cases.gap(found[name], expected[name]) for name in known))
    with torch.no_grad():
        net.encode_moments(x)
    assert _at_rest(net)
    return worst


def recomputed(cfg: DiTConfig, checkpointing: str, fraction: float) -> tuple[int, int]:
    """Attentions and products that backward computes again, in one process."""
    plan = TrainParallelConfig(checkpointing=checkpointing, checkpoint_fraction=fraction)
    parallel, net = started(plan, 1), network(cfg)
    parallel.divide(net, precision="32-true")
    calls = Calls()
    with mock.patch.object(attention, "PLAIN_LOGITS", 0):
        loss = net(**inputs(cfg, (2, 2, 2), 1)).square().mean()
        with calls:
            loss.backward()
    return calls.count("_scaled_dot_product_flash_attention_for_cpu.default"), calls.count("aten.mm.")


class Calls(torch.utils._python_dispatch.TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.seen.append(str(func))
        return func(*args, **(kwargs or {}))

    def count(self, name: str) -> int:
        return sum(name in s for s in self.seen)


def refused(cfg: DiTConfig, plan: TrainParallelConfig, world_size: int, precision: str = "32-true") -> str:
    try:
        started(plan, world_size).divide(network(cfg), precision=precision)
    except Exception as e:
        return f"{type(e).__name__}: {e}"
    return ""


def talk(world_size: int) -> tuple[float, bool, bool, int]:
    """A mean of different values, a flag of one rank, a flag of none, and rank 0's answer."""
    parallel = started(replace(TrainParallelConfig()), world_size)
    parallel.barrier()
    rank = parallel.rank
    mean = parallel.mean(torch.tensor(float(rank)))
    return float(mean), parallel.any(rank == 1), parallel.any(False), parallel.agree(lambda: 7 + rank)
