"""What is left to do to gradients after `backward` of a divided network, and their norm."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import ProcessGroup
from torch.distributed.tensor import DTensor


def local(x: Tensor) -> Tensor:
    """This rank's part of a tensor that may be divided; shares its memory."""
    return x.to_local() if isinstance(x, DTensor) else x


def add_up(grads: Iterable[Tensor], group: ProcessGroup) -> None:
    """Sum gradients over the ranks of `group` in place, all in one exchange."""
    parts = [local(g) for g in grads]
    if parts:
        flat = torch.cat([p.reshape(-1) for p in parts])
        dist.all_reduce(flat, group=group)
        for part, total in zip(parts, flat.split([p.numel() for p in parts])):
            part.copy_(total.view_as(part))


def total_norm(grads: Iterable[Tensor]) -> Tensor:
    """L2 norm of gradients on any meshes, a scalar on their device: each distinct element counts once, on every rank
    the same. Does not wait for the device."""
    by_layout = defaultdict(list)
    for grad in grads:
        layout = (grad.device_mesh, _divided_over(grad)) if isinstance(grad, DTensor) else (None, ())
        by_layout[layout].append(local(grad))
    squares = []
    for (mesh, divided), parts in by_layout.items():
        square = torch.nn.utils.get_total_norm(parts).square()
        for dim in divided:
            dist.all_reduce(square, group=mesh.get_group(dim))
        squares.append(square)
    return torch.stack(squares).sum().sqrt() if squares else torch.zeros(())


def _divided_over(grad: DTensor) -> tuple[int, ...]:
    """Mesh dimensions over which ranks hold different elements."""
    sizes = grad.device_mesh.shape
    return tuple(i for i, p in enumerate(grad.placements) if sizes[i] > 1 and not p.is_replicate())


def clip_(grads: list[Tensor], max_norm: float) -> Tensor:
    """Scale gradients in place so that their `total_norm` is at most `max_norm`; the norm before."""
    norm = total_norm(grads)
    scale = (max_norm / (norm + 1e-6)).clamp(max=1.0)
    for grad in grads:
        local(grad).mul_(scale)
    return norm
