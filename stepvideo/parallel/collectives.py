"""The two exchanges that the plans are made of. Both take uneven shares, on gloo and nccl, and differentiate.

The gradient of a value that every rank holds is, on each rank, its own: a loss that every rank computes alike counts
once a rank. Parameter gradients averaged over the ranks are then those of one process (`gradients.py`).
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import ProcessGroup


def shares(n: int, parts: int) -> list[int]:
    """n things as evenly as possible: the first parts have one more where it does not divide."""
    return [n // parts + (i < n % parts) for i in range(parts)]


def spans(n: int, parts: int) -> list[slice]:
    """Where each of these shares lies."""
    sizes = shares(n, parts)
    return [slice(sum(sizes[:i]), sum(sizes[: i + 1])) for i in range(parts)]


def own_share(n: int, group: ProcessGroup) -> slice:
    """Which of n things this rank holds."""
    return spans(n, group.size())[group.rank()]


def all_to_all(x_n: Tensor, sent: list[int], received: list[int], group: ProcessGroup) -> Tensor:
    """A flat tensor in `sent` pieces, piece i to rank i; what came, by rank, of the sizes `received`."""
    return _AllToAll.apply(x_n, sent, received, group)


def gather(x: Tensor, dim: int, sizes: list[int], group: ProcessGroup) -> Tensor:
    """The shares of all ranks, of `sizes` along `dim`, joined in their order; every rank has the result."""
    first = x.movedim(dim, 0)
    width = first.shape[1:].numel()
    copies = first.reshape(-1).expand(group.size(), -1).reshape(-1)
    flat = all_to_all(copies, [first.numel()] * group.size(), [n * width for n in sizes], group)
    return flat.view(sum(sizes), *first.shape[1:]).movedim(0, dim)


class _AllToAll(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, sent: list[int], received: list[int], group: ProcessGroup) -> Tensor:
        ctx.sizes = sent, received, group
        out = x.new_empty(sum(received))
        dist.all_to_all_single(out, x.contiguous(), received, sent, group)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        sent, received, group = ctx.sizes
        return all_to_all(grads[0], received, sent, group), None, None, None
