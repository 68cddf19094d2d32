"""Tensor parallelism of a DiT's blocks on DTensor (report §6.2.2; the released code divides the same matrices).

Columns of the projections into heads and into the feed-forward, rows of the projections out of them: one all-reduce a
branch. Contiguous shares work because q, k and v lie together inside each head. All else is held whole by every rank.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Replicate, Shard
from torch.distributed.tensor.parallel import ColwiseParallel, ParallelStyle, RowwiseParallel, parallelize_module

from stepvideo.models.dit import DiT

COLUMNS = (".wqkv", ".wq", ".wkv", ".ff.net.0.proj")
ROWS = (".wo", ".ff.net.2")
TEXT = (".wkv",)  # reads the text, which every rank has whole
PER_HEAD = (".q_norm.weight", ".k_norm.weight")  # whole on every rank, but each applies them to its own heads only


def split_heads(dit: DiT, mesh: DeviceMesh, sequence: bool = False) -> None:
    """Divide the blocks' matrices over the ranks of a 1-D mesh, in place; each rank keeps its shards.

    With `sequence` the video's tokens come and go divided too (`sequence.py`).
    Without communication: every rank has the same weights, or `dit` is on the meta device and `shard_loader` gives it
    its weights.
    """
    tokens = Shard(1) if sequence else Replicate()
    plan: dict[str, ParallelStyle] = {
        name: RowwiseParallel(output_layouts=tokens)
        if name.endswith(ROWS)
        else ColwiseParallel(input_layouts=Replicate() if name.endswith(TEXT) else tokens)
        for name, module in dit.named_modules()
        if isinstance(module, nn.Linear) and name.endswith(COLUMNS + ROWS)
    }
    parallelize_module(dit, mesh, plan, src_data_rank=None)


def overlap_exchanges(mesh: DeviceMesh) -> None:
    """Async tensor parallelism: the compiler cuts gathers and reduce-scatters into pieces that overlap the products
    beside them, through memory that the ranks of a 1-D mesh read of each other (CUDA with NVLink)."""
    from torch._inductor import config
    from torch.distributed._symmetric_memory import enable_symm_mem_for_group

    config._micro_pipeline_tp = True
    enable_symm_mem_for_group(mesh.get_group().group_name)


def partial_gradients(dit: DiT, sequence: bool) -> list[str]:
    """Names of the undivided parameters of which each tensor rank's gradient is a part, to be added up over the ranks:
    what each applies to its own heads and, with `sequence`, to its own tokens."""
    blocks = "transformer_blocks."
    return [
        name
        for name, p in dit.named_parameters()
        if not isinstance(p, DTensor) and name.startswith(blocks) and (sequence or name.endswith(PER_HEAD))
    ]


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
