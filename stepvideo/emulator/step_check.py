"""A whole training step of our DiT at full size without a GPU: torch's own MemTracker on fake tensors.

FSDP2, tensor and Ulysses ranks as `stepvideo.parallel.train` divides, AdamW, over a pretended process group. The second
step is measured: the first makes the optimizer's state, and DTensor tries each operation on whole fake tensors in it.
Fake tensors are on the CPU, so what `models` does otherwise there is replaced by what it does on an accelerator.
Exchanges happen at once and not beside computation: what CUDA streams would hold longer is not seen.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any
from unittest.mock import patch

import torch
from torch._subclasses.fake_tensor import FakeTensorMode, unset_fake_temporarily
from torch.distributed._tools.mem_tracker import MemTracker
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from stepvideo.emulator.activations import MicroBatch
from stepvideo.emulator.memory_check import SHORT, Case, accelerators_attention, pretended
from stepvideo.emulator.train_memory import Training, train_memory
from stepvideo.models import attention, dit_blocks, modulation, qk_norm
from stepvideo.models.config import DiTConfig
from stepvideo.models.dit import DiT
from stepvideo.models.rope import rope_tables
from stepvideo.parallel import train
from stepvideo.parallel.config import TrainParallelConfig

BAR = 0.03
TWO = DiTConfig(num_layers=2)
CASES = (
    Case(TWO, SHORT, TrainParallelConfig(zero=1)),
    Case(TWO, SHORT, TrainParallelConfig(zero=3, checkpointing="full")),
    Case(DiTConfig(num_layers=4), SHORT, TrainParallelConfig(tensor=2, zero=2, checkpointing="full")),
    Case(TWO, MicroBatch(1, (24, 34, 62)), TrainParallelConfig(tensor=4, ulysses=2, zero=1)),
)


def tracked(case: Case, data: int = 2) -> tuple[int, int]:
    """Bytes at the worst moment of a step on a rank of `data` data ranks: as MemTracker says, and predicted."""
    par = case.parallel
    ranks = data * par.tensor * par.ulysses
    with pretended(ranks), _on_an_accelerator(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        mesh = init_device_mesh("cpu", par.dims(ranks), mesh_dim_names=train.DIMENSIONS)
        parallel = train.TrainParallel(par, ranks, torch.device("cpu"), mesh)
        with (
            FakeTensorMode(allow_non_fake_inputs=True),
            patch.object(parallel, "_data_mesh", _real(parallel._data_mesh)),
        ):
            found = _peak(case, parallel)
    predicted = train_memory(case.cfg, case.batch, Training(par, ranks), reserve=0)
    return found, int(predicted.total)


def _peak(case: Case, parallel: train.TrainParallel) -> int:
    rope_tables.cache_clear()
    dit = DiT(replace(case.cfg))
    parallel.divide(dit, precision="bf16-mixed")
    meshes: dict[Any, list[torch.nn.Parameter]] = {}  # as `training.optim` makes it
    for weights in dit.parameters():
        meshes.setdefault(getattr(weights, "device_mesh", None), []).append(weights)
    optimizer = torch.optim.AdamW([{"params": own} for own in meshes.values()], foreach=True)
    tracker, (b, (f, h, w)) = MemTracker(), (case.batch.samples, case.batch.latent)
    llm, clip = case.cfg.caption_channels
    shapes = [(b, f, case.cfg.in_channels, h, w), (b, case.batch.text, llm), (b, case.batch.clip, clip), (b,)]
    given = [torch.zeros(shape) for shape in shapes]

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        parallel.micro_batch([dit], first=True, last=True)
        dit(*given).float().square().mean().backward()
        optimizer.step()

    step()
    tracker.track_external(dit, optimizer)
    with tracker:
        step()
    rope_tables.cache_clear()
    return int(tracker.get_tracker_snapshot("peak")[torch.device("cpu")]["Total"])


def _real(call: Callable[..., Any]) -> Callable[..., Any]:
    """Outside of fake tensors, of which no mesh can be made."""

    def run(*args: Any, **kwargs: Any) -> Any:
        with unset_fake_temporarily():
            return call(*args, **kwargs)

    return run


@contextmanager
def _on_an_accelerator() -> Iterator[None]:
    def norm(x: Any, weight: Any, eps: float, rope: Any = None, split: Any = (0, 0, 0)) -> Any:
        return qk_norm.plain_qk_norm(x, weight.float()[:, None, None, None, :], eps, rope, split)

    with ExitStack() as stack:
        stack.enter_context(accelerators_attention())
        for owner, name, value in (
            (attention, "use_plain", lambda q, k: False),
            (dit_blocks, "qk_norm", norm),
            (dit_blocks, "gated_sum", lambda x, gate, branch: modulation._GatedSum.apply(x, gate, branch)),
            (train, "limit", lambda mesh, seconds: None),
            (DeviceMesh, "_concatenate", staticmethod(_real(DeviceMesh._concatenate))),
        ):
            stack.enter_context(patch.object(owner, name, value))
        yield
