"""Predicted memory against our real DiT at full size, without a GPU: what autograd keeps, and the worst moment.

The module is built on the meta device, divided by the real plans over a pretended process group and run forward and
backward with the real recomputation policies; `LiveBytes` counts what is alive. That checks the formulas and not CUDA:
workspaces of kernels, NCCL's buffers and the allocator's fragments are no tensors.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from typing import Any
from unittest.mock import patch

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor.debug import _clear_sharding_prop_cache
from torch.testing._internal.distributed.fake_pg import FakeStore

from stepvideo.emulator.activations import MicroBatch, in_backward, of_recomputed
from stepvideo.emulator.tracker import LiveBytes, fused_attention
from stepvideo.emulator.train_memory import Training, checkpointed, train_memory
from stepvideo.models.config import DiTConfig
from stepvideo.models.dit import DiT
from stepvideo.models.rope import rope_tables
from stepvideo.parallel.activation import POLICIES, recompute
from stepvideo.parallel.config import TrainParallelConfig
from stepvideo.parallel.sequence import split_between
from stepvideo.parallel.tensor import split_heads
from stepvideo.parallel.ulysses import split_tokens

BAR_KEPT, BAR_PEAK = 0.001, 0.03
RELEASED = DiTConfig(num_layers=2)  # blocks are alike: few stand for 48
NARROW = DiTConfig(num_attention_heads=24, num_layers=3)
SMALL = DiTConfig(num_attention_heads=12, num_layers=4, caption_channels=[1536, 768])
Layout = TrainParallelConfig


@dataclass(frozen=True)
class Case:
    cfg: DiTConfig
    batch: MicroBatch
    parallel: TrainParallelConfig

    def __str__(self) -> str:
        p, (f, h, w) = self.parallel, self.batch.latent
        sequence = "" if p.sequence or p.tensor == 1 else " without SP"
        share = f" {p.checkpoint_fraction:g}" if p.checkpointing == "fraction" else ""
        size = f"{self.batch.samples} x {f}x{h}x{w}"
        return f"{self.cfg.inner_dim:5} {size:16} TP{p.tensor} CP{p.ulysses}{sequence} {p.checkpointing}{share}"


def _sizes(latent: tuple[int, int, int], samples: int = 1) -> MicroBatch:
    return MicroBatch(samples, latent)


IMAGE, SHORT, MIDDLE, LONG = (_sizes((f, 34, 62)) for f in (1, 12, 24, 36))  # 1, 68, 136, 204 frames at 544x992
LOW, SQUARES = _sizes((36, 12, 20), 4), _sizes((1, 16, 16), 40)  # 204x192x320; images of 256x256

CASES = (
    Case(RELEASED, LONG, Layout()),
    Case(RELEASED, LONG, Layout(tensor=8)),
    Case(RELEASED, LONG, Layout(tensor=8, checkpointing="full")),
    Case(RELEASED, LONG, Layout(tensor=4, ulysses=2)),
    Case(RELEASED, LONG, Layout(ulysses=4, checkpointing="attention")),
    Case(RELEASED, MIDDLE, Layout(tensor=2, ulysses=3)),
    Case(RELEASED, MIDDLE, Layout(tensor=4, sequence=False)),
    Case(RELEASED, MIDDLE, Layout(tensor=8, checkpointing="attention")),
    Case(RELEASED, SHORT, Layout(tensor=2)),
    Case(RELEASED, SHORT, Layout(ulysses=3)),
    Case(RELEASED, SHORT, Layout(tensor=2, ulysses=4, checkpointing="full")),
    Case(RELEASED, IMAGE, Layout()),
    Case(RELEASED, IMAGE, Layout(tensor=8)),
    Case(RELEASED, IMAGE, Layout(ulysses=2, checkpointing="full")),
    Case(RELEASED, SQUARES, Layout(tensor=8)),
    Case(RELEASED, LOW, Layout(tensor=8)),
    Case(NARROW, LONG, Layout(tensor=2)),
    Case(NARROW, SHORT, Layout(tensor=8, ulysses=3, checkpointing="fraction", checkpoint_fraction=0.34)),
    Case(NARROW, MIDDLE, Layout(tensor=4, ulysses=4)),
    Case(SMALL, LONG, Layout(checkpointing="fraction", checkpoint_fraction=0.5)),
    Case(SMALL, MIDDLE, Layout(tensor=4, ulysses=2, checkpointing="attention")),
    Case(SMALL, SHORT, Layout(tensor=2, sequence=False, checkpointing="full")),
    Case(SMALL, LOW, Layout(ulysses=4)),
    Case(SMALL, SQUARES, Layout(tensor=4)),
)


@dataclass(frozen=True)
class Checked:
    """Bytes of a case: kept for the backward, and at its worst moment; predicted and alive."""

    case: Case
    kept: int
    kept_predicted: int
    peak: int
    peak_predicted: int

    @property
    def errors(self) -> tuple[float, float]:
        """Relative, of what is kept and of the peak."""
        return self.kept_predicted / self.kept - 1, self.peak_predicted / self.peak - 1

    @property
    def ok(self) -> bool:
        kept, peak = self.errors
        return abs(kept) <= BAR_KEPT and abs(peak) <= BAR_PEAK

    def row(self) -> dict[str, Any]:
        kept, peak = self.errors
        about = {"case": " ".join(str(self.case).split()), "kept_bytes": self.kept, "peak_bytes": self.peak}
        return about | {"kept_error": kept, "peak_error": peak, "ok": self.ok}


def check(cases: Sequence[Case] = CASES) -> Iterator[Checked]:
    """One by one; each takes a second or so."""
    for case in cases:
        ranks = 2 * case.parallel.tensor * case.parallel.ulysses
        with pretended(ranks), accelerators_attention():
            dit = build(case.cfg)
            divide(dit, case.parallel)
            kept, peak = measured(dit, inputs(case.cfg, case.batch))
        how = Training(case.parallel, ranks)
        predicted = train_memory(case.cfg, case.batch, how)
        yield Checked(case, kept, predicted.activations, peak, predicted.activations + _backward(case, how))


def _backward(case: Case, how: Training) -> int:
    """With the gradient of a matrix, which lives here until the next one's; FSDP's exchange counts whole blocks'."""
    share, attention = how.share(case.cfg, case.batch), case.parallel.checkpointing == "attention"
    matrix = 4 * case.cfg.inner_dim**2 // case.parallel.tensor * how.e
    again = checkpointed(case.parallel, case.cfg.num_layers) > 0
    return round(float(in_backward(share, again, of_recomputed(share, attention), matrix)[0]))


@contextmanager
def pretended(ranks: int) -> Iterator[None]:
    """A process group whose exchanges do nothing: shapes are all that counts."""
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=ranks)
    try:
        yield
    finally:
        dist.destroy_process_group()
        _clear_sharding_prop_cache()  # meshes of other groups look alike


def accelerators_attention() -> AbstractContextManager[object]:
    """Within it attention is an accelerator's, its backward too, whose recomputation no mode of torch's would see."""
    return patch.object(torch.nn.functional, "scaled_dot_product_attention", fused_attention)


def build(cfg: DiTConfig, dtype: torch.dtype = torch.bfloat16) -> DiT:
    rope_tables.cache_clear()
    with torch.device("meta"):
        return DiT(replace(cfg)).to(dtype)


def divide(dit: DiT, par: TrainParallelConfig) -> None:
    """As `stepvideo.parallel.train` does, but for FSDP."""
    sequence = par.sequence and par.tensor > 1
    if par.tensor * par.ulysses > 1:
        copies = dist.get_world_size() // (par.tensor * par.ulysses)
        shape, names = (copies, par.ulysses, par.tensor), ("data", "ulysses", "tensor")
        mesh = init_device_mesh("cpu", shape, mesh_dim_names=names)
        if par.tensor > 1:
            split_heads(dit, mesh["tensor"], sequence=sequence)
        if par.ulysses > 1:
            split_tokens(dit, mesh.get_group("ulysses"))
        if sequence:
            split_between(dit, mesh["tensor"])
    recompute(list(dit.transformer_blocks), POLICIES[par.checkpointing](par))


def inputs(cfg: DiTConfig, batch: MicroBatch) -> list[Tensor]:
    """Arguments of a forward, in fp32 as data come, on the meta device."""
    b, (f, h, w), (llm, clip) = batch.samples, batch.latent, cfg.caption_channels
    texts = [(b, batch.text, llm), (b, batch.clip, clip)]
    shapes = [(b, f, cfg.in_channels, h, w), *texts, (b,), (b, batch.text + batch.clip)]
    return [torch.zeros(shape, device="meta") for shape in shapes]


def measured(dit: DiT, arguments: list[Tensor]) -> tuple[int, int]:
    """Bytes kept after the forward, and at the worst moment of the backward; gradients go as soon as they are there."""
    for p in dit.parameters():
        p.register_post_accumulate_grad_hook(lambda p: setattr(p, "grad", None))
    with LiveBytes([*dit.parameters(), *arguments]) as live:
        before = live.now
        out = dit(*arguments)
        kept = live.now - before
        live.peak = live.now
        out.float().square().mean().backward()
    return kept, live.peak - before
