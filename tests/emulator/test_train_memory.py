"""Predicted training memory against the real DiT on the meta device: divided by the real plans over a pretended group
of ranks, with the real recomputation policies, forward and backward. Bars: 3 % for what is kept, 10 % for the peak.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.testing._internal.distributed.fake_pg import FakeStore

from stepvideo.emulator.dit_memory import dit_parameters
from stepvideo.emulator.tracker import LiveBytes, fused_attention
from stepvideo.emulator.train_memory import MicroBatch, Training, TrainMemory, block_activations, train_memory
from stepvideo.models import attention
from stepvideo.models.config import DiTConfig
from stepvideo.models.dit import DiT
from stepvideo.models.rope import rope_tables
from stepvideo.parallel.activation import POLICIES, recompute
from stepvideo.parallel.config import TrainParallelConfig
from stepvideo.parallel.sequence import split_between
from stepvideo.parallel.tensor import split_heads
from stepvideo.parallel.ulysses import split_tokens

SMALL = DiTConfig(8, 64, 4, 64, 64, caption_channels=[256, 128])
RELEASED = DiTConfig(num_layers=2)  # blocks are alike: two stand for 48
BATCH = MicroBatch(2, (12, 12, 20), text=243)
LONG = MicroBatch(1, (36, 34, 62))  # 544x992x204
Layout = TrainParallelConfig


@pytest.fixture(scope="module")
def ranks() -> Iterator[None]:
    """A group of eight ranks whose exchanges do nothing: shapes are all that counts here."""
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=8)
    yield
    dist.destroy_process_group()


@pytest.fixture(autouse=True)
def an_accelerators_attention(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention.F, "scaled_dot_product_attention", fused_attention)


def build(cfg: DiTConfig, dtype: torch.dtype = torch.bfloat16) -> DiT:
    rope_tables.cache_clear()
    with torch.device("meta"):
        return DiT(cfg).to(dtype)


def divide(dit: DiT, par: TrainParallelConfig) -> None:
    sequence = par.sequence and par.tensor > 1
    if par.tensor * par.ulysses > 1:
        mesh = init_device_mesh("cpu", (par.ulysses, par.tensor), mesh_dim_names=("ulysses", "tensor"))
        if par.tensor > 1:
            split_heads(dit, mesh["tensor"], sequence=sequence)
        if par.ulysses > 1:
            split_tokens(dit, mesh.get_group("ulysses"))
        if sequence:
            split_between(dit, mesh["tensor"])
    recompute(list(dit.transformer_blocks), POLICIES[par.checkpointing](par))


def inputs(cfg: DiTConfig, batch: MicroBatch, dtype: torch.dtype = torch.bfloat16) -> list[Tensor]:
    b, (f, h, w), (llm, clip) = batch.samples, batch.latent, cfg.caption_channels
    shapes = [
        (b, f, cfg.in_channels, h, w),
        (b, batch.text, llm),
        (b, batch.clip, clip),
        (b,),
        (b, batch.text + batch.clip),
    ]
    return [torch.zeros(shape, device="meta", dtype=dtype) for shape in shapes]


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


@pytest.mark.parametrize(
    ("cfg", "batch", "par"),
    [
        (SMALL, BATCH, Layout()),
        (SMALL, BATCH, Layout(checkpointing="full")),
        (SMALL, BATCH, Layout(checkpointing="fraction", checkpoint_fraction=0.5)),
        (SMALL, BATCH, Layout(checkpointing="attention")),
        (SMALL, BATCH, Layout(tensor=2, sequence=False)),
        (SMALL, BATCH, Layout(tensor=2)),
        (SMALL, BATCH, Layout(ulysses=2)),
        (SMALL, BATCH, Layout(tensor=2, ulysses=2)),
        (SMALL, BATCH, Layout(ulysses=2, checkpointing="attention")),
        (RELEASED, LONG, Layout()),
        (RELEASED, LONG, Layout(ulysses=4, checkpointing="attention")),
        (RELEASED, LONG, Layout(tensor=8, checkpointing="full")),
        (RELEASED, MicroBatch(4, (36, 12, 20)), Layout(tensor=8)),
    ],
    ids=str,
)
def test_activations(cfg, batch, par, ranks):
    dit = build(cfg)
    divide(dit, par)
    kept, peak = measured(dit, inputs(cfg, batch))
    m = train_memory(cfg, batch, Training(par, ranks=8))
    assert m.activations == pytest.approx(kept, rel=0.03)
    assert m.activations + m.backward == pytest.approx(peak, rel=0.10)


def test_what_a_compiler_keeps():
    """Per block: torch's partitioner decides what is kept and what is computed again, without a device."""

    def kept(layers: int) -> int:
        cfg = replace(SMALL, num_layers=layers)
        dit = build(cfg)
        for block in dit.transformer_blocks:
            block.forward = torch.compile(block.forward, backend="aot_eager_decomp_partition", fullgraph=True)
        found = {}
        weights = {p.untyped_storage()._cdata for p in dit.parameters()}

        def pack(tensor: Tensor) -> Tensor:
            found[tensor.untyped_storage()._cdata] = tensor
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            dit(*inputs(cfg, BATCH))
        return sum(t.untyped_storage().nbytes() for key, t in found.items() if key not in weights)

    torch._dynamo.reset()
    one_block = kept(2) - kept(1)
    predicted = block_activations(SMALL, BATCH, Training(Layout(compile=True), ranks=8))
    assert predicted == pytest.approx(one_block, rel=0.03)
    assert predicted < 0.75 * block_activations(SMALL, BATCH, Training(Layout(), ranks=8))


def test_a_whole_step_of_one_process():
    """Weights, gradients, AdamW's moments and activations together, in fp32."""
    dit, arguments = build(SMALL, torch.float32), inputs(SMALL, BATCH, torch.float32)
    optimizer = torch.optim.AdamW(dit.parameters(), foreach=False)
    with LiveBytes([*dit.parameters(), *arguments]) as live:
        for _ in range(2):
            optimizer.zero_grad()
            dit(*arguments).square().mean().backward()
            optimizer.step()
    m = train_memory(SMALL, BATCH, Training(Layout(), precision="32-true"), reserve=0)
    assert m.total == pytest.approx(live.peak - sum(a.nbytes for a in arguments), rel=0.05)


def test_what_the_ranks_divide():
    cfg = DiTConfig()
    p = dit_parameters(cfg)

    def of(ranks: int, **changes) -> TrainMemory:
        return train_memory(cfg, LONG, Training(Layout(**changes), ranks))

    report = of(3000, tensor=8)  # TP8, SP, ZeRO-1 over 375 data ranks
    own = p.layers * (p.block_matrices // 8 + p.block - p.block_matrices) + p.outside
    assert (report.master, report.optimizer) == (round(4 * own / 375), round(8 * own / 375))
    assert report.weights == 2 * own
    assert of(8, zero=0).master == 8 * of(8, zero=1).master
    assert of(8, zero=3).weights < 0.1 * of(8, zero=2).weights == 0.1 * 2 * p.total
    assert of(16, zero=1, shard=2).master == 4 * p.total // 2
    assert of(16, zero=1, ulysses=8).master == 4 * p.total // 16
    summed = train_memory(cfg, LONG, Training(Layout(zero=1), 8, accumulate=2))
    assert summed.gradients - of(8, zero=1).gradients == 4 * p.total
    muon = train_memory(cfg, LONG, Training(Layout(zero=0), 8, muon=True, ema=True))
    assert muon.optimizer == 8 * p.total - 4 * p.layers * p.block_matrices and muon.ema == 4 * p.total


def test_a_network_that_is_not_described_is_refused():
    with pytest.raises(ValueError, match="mmdit"):
        train_memory(DiTConfig(block="mmdit"), LONG, Training(Layout()))
    with pytest.raises(ValueError, match="tensor=7"):
        train_memory(DiTConfig(), LONG, Training(Layout(tensor=7), 7))
