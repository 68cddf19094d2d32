"""Data parallelism on FSDP2 (`fully_shard`): what ranks divide, and which micro-batch exchanges what (report §6.2.2).

One mechanism for all ZeRO stages. A network is *at rest* when its parameters are this rank's shards; stages 1 and 2
keep the gathered weights from the first forward of a step to its last backward.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any

import torch
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method

# The networks hand their outputs to a loss, which changes nothing in place.
warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view tensor")


def precision_policy(precision: str, cast_inputs: bool) -> MixedPrecisionPolicy:
    """fp32 master weights, whatever the computation takes; gradients are reduced in fp32."""
    if precision == "32-true":
        return MixedPrecisionPolicy(cast_forward_inputs=False)
    return MixedPrecisionPolicy(torch.bfloat16, torch.float32, cast_forward_inputs=cast_inputs)


def shard(
    net: nn.Module,
    blocks: Sequence[nn.Module],
    mesh: DeviceMesh,
    zero: int,
    policy: MixedPrecisionPolicy,
    train: bool,
    methods: Sequence[str],
) -> None:
    """Divide `net` over a mesh of (shard) or (replicate, shard), in place: a group of parameters a block, and the rest.

    On an accelerator the next block's weights are gathered while a block computes.
    """
    inner = MixedPrecisionPolicy(policy.param_dtype, policy.reduce_dtype, cast_forward_inputs=False)
    for block in blocks:
        fully_shard(block, mesh=mesh, reshard_after_forward=zero == 3, mp_policy=inner)
    fully_shard(net, mesh=mesh, reshard_after_forward=zero == 3 and not blocks, mp_policy=policy)
    for block, following in zip(blocks, blocks[1:]):
        assert isinstance(block, FSDPModule) and isinstance(following, FSDPModule)
        block.set_modules_to_forward_prefetch([following])
    for name in methods:
        register_fsdp_forward_method(net, name)
    if train:
        net.register_forward_hook(lambda module, _, out: _to_rest_without_gradients(module, out))
        for name in methods:
            setattr(net, name, _with_rest(net, getattr(net, name)))


def schedule(net: nn.Module, zero: int, first: bool, last: bool) -> None:
    """Say, before a forward, what this micro-batch of a step exchanges."""
    assert isinstance(net, FSDPModule)
    if first:
        rest(net)
    net.set_is_last_backward(last)
    net.set_requires_gradient_sync(last or zero >= 2)
    net.set_requires_all_reduce(last)
    net.set_reshard_after_backward(last or zero == 3)


def rest(net: nn.Module) -> None:
    """Let go of gathered weights: parameters are this rank's shards again."""
    for module in net.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


def _with_rest(net: nn.Module, method: Callable[..., Any]) -> Callable[..., Any]:
    return wraps(method)(lambda *args, **kwargs: _to_rest_without_gradients(net, method(*args, **kwargs)))


def _to_rest_without_gradients(net: nn.Module, out: Any) -> Any:
    """Without a backward to follow nothing else would end what stages 1 and 2 keep, and a checkpoint or an average
    taken then would read gathered weights."""
    if not torch.is_grad_enabled():
        rest(net)
    return out
