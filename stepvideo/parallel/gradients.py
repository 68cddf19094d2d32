"""What is left to do to gradients after `backward` of a divided model, before they equal those of one process."""

from __future__ import annotations

import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor

from stepvideo.parallel.tensor import PER_HEAD


def reduce_gradients(model: nn.Module, mesh: DeviceMesh) -> None:
    """Sum over the tensor ranks what each has of its own heads only; average all over the Ulysses ranks.

    A trainer that averages over data-parallel ranks anyway takes the Ulysses ranks among them.
    """
    for name, parameter in model.named_parameters():
        if (grad := parameter.grad) is None:
            continue
        grad = grad.to_local() if isinstance(grad, DTensor) else grad
        if name.endswith(PER_HEAD):
            dist.all_reduce(grad, group=mesh.get_group("tensor"))
        dist.all_reduce(grad, group=mesh.get_group("ulysses"))
        grad /= mesh["ulysses"].size()
