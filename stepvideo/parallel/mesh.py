"""The ranks of this run as a mesh with named dimensions, from the environment that torchrun, srun or `launch` set."""

from __future__ import annotations

import atexit
import os
import sys
from collections.abc import Mapping
from datetime import timedelta

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.distributed_c10d import _set_pg_timeout

from stepvideo.diffusion.pipeline import best_device
from stepvideo.errors import StepVideoError
from stepvideo.parallel.config import ParallelConfig

DIMENSIONS = ("cfg", "ulysses", "tensor")  # the last one talks most: neighbouring ranks
TIMEOUT_S = 600.0


def connect(config: ParallelConfig, device: str = "auto", timeout_s: float = TIMEOUT_S) -> DeviceMesh:
    """`meet` over the degrees of `config`.

    Raises:
        StepVideoError: another number of ranks than the degrees ask for, or more than there are devices.
    """
    _check_ranks(config)
    return meet({name: getattr(config, name) for name in DIMENSIONS}, device, timeout_s)


def meet(dims: Mapping[str, int], device: str = "auto", timeout_s: float = TIMEOUT_S) -> DeviceMesh:
    """Meet the other ranks; the process group is closed when the process ends, or by `disconnect`.

    Args:
        dims: the mesh's dimensions and their sizes, outermost first.
        device: auto (CUDA where there is one) | cpu | cuda. Each rank takes the CUDA device of its LOCAL_RANK.
        timeout_s: how long a collective waits for a rank before it fails.

    Raises:
        StepVideoError: more ranks than there are devices.
    """
    kind = best_device(device).type
    if kind == "cuda":
        local, count = int(os.environ.get("LOCAL_RANK", 0)), torch.cuda.device_count()
        if local >= count:
            raise StepVideoError(
                f"local rank {local} has no device: this machine has {count}; start at most {count} ranks on it"
            )
        torch.cuda.set_device(local)
    timeout = timedelta(seconds=timeout_s)
    if not dist.is_initialized():
        alone = {} if "RANK" in os.environ else {"store": dist.HashStore(), "rank": 0, "world_size": 1}
        dist.init_process_group("nccl" if kind == "cuda" else "gloo", timeout=timeout, **alone)
        atexit.register(disconnect)
    mesh = init_device_mesh(kind, tuple(dims.values()), mesh_dim_names=tuple(dims))
    limit(mesh, timeout_s)
    return mesh


def limit(mesh: DeviceMesh, timeout_s: float) -> None:
    """Set how long a mesh's collectives wait: its groups have torch's own timeout, whatever the first group has."""
    for group in mesh.get_all_groups():
        _set_pg_timeout(timedelta(seconds=timeout_s), group)


def disconnect() -> None:
    """Leave the other ranks; harmless when there are none."""
    if dist.is_initialized():
        dist.destroy_process_group()
        if "torch.distributed.tensor" in sys.modules:  # whose import takes as long as torch's, for who divides nothing
            from torch.distributed.tensor.debug import _clear_sharding_prop_cache

            _clear_sharding_prop_cache()  # it finds meshes by their shape: the next ones would get this one's groups


def _check_ranks(config: ParallelConfig) -> None:
    wanted = config.world_size
    product = " · ".join(f"{name} {getattr(config, name)}" for name in reversed(DIMENSIONS))
    if "RANK" not in os.environ:
        raise StepVideoError(
            f"parallel: {product} = {wanted} ranks, but this process is alone; start it with --nproc {wanted}, or "
            f"under torchrun --nproc-per-node {wanted}"
        )
    if (found := int(os.environ["WORLD_SIZE"])) != wanted:
        raise StepVideoError(
            f"parallel: {product} = {wanted} ranks, but {found} were started; start {wanted}, or choose degrees whose "
            f"product is {found}"
        )
