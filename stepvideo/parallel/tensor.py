"""Tensor parallelism of a DiT's blocks on DTensor (report §6.2.2; the released code divides the same matrices).

Columns of the projections into heads and into the feed-forward, rows of the projections out of them: one all-reduce a
branch. Contiguous shares work because q, k and v lie together inside each head. All else is held whole by every rank.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Shard
from torch.distributed.tensor.parallel import ColwiseParallel, ParallelStyle, RowwiseParallel, parallelize_module

from stepvideo.models.dit import DiT

COLUMNS = (".wqkv", ".wq", ".wkv", ".ff.net.0.proj")
ROWS = (".wo", ".ff.net.2")
PER_HEAD = (".q_norm.weight", ".k_norm.weight")  # whole on every rank, but each applies them to its own heads only


def split_heads(dit: DiT, mesh: DeviceMesh) -> None:
    """Divide the blocks' matrices over the ranks of a 1-D mesh, in place; each rank keeps its shards.

    Without communication: every rank has the same weights, or `dit` is on the meta device and `shard_loader` gives it
    its weights.
    """
    plan: dict[str, ParallelStyle] = {
        name: ColwiseParallel() if name.endswith(COLUMNS) else RowwiseParallel()
        for name, module in dit.named_modules()
        if isinstance(module, nn.Linear) and name.endswith(COLUMNS + ROWS)
    }
    parallelize_module(dit, mesh, plan, src_data_rank=None)


def shard_loader(model: nn.Module, device: torch.device | str) -> Callable[[str, Tensor], Tensor]:
    """A function of a parameter's name and its full tensor, giving what this rank holds in its place, on `device`: a
    copy of its shard, or of the whole."""
    parameters = dict(model.named_parameters())

    def shard(name: str, full: Tensor) -> Tensor:
        divided = parameters[name]
        if not isinstance(divided, DTensor):
            return full.to(device)
        mesh, (placement,) = divided.device_mesh, divided.placements
        assert isinstance(placement, Shard)
        part = full.chunk(mesh.size(), placement.dim)[mesh.get_local_rank()]
        own = torch.empty(part.shape, dtype=part.dtype, device=device).copy_(part)
        return DTensor.from_local(own, mesh, (placement,), run_check=False)

    return shard
