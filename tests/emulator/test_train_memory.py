"""Predicted training memory against the real DiT on the meta device: divided by the real plans over a pretended group
of ranks, with the real recomputation policies, forward and backward. Bars: 0.1 % for what is kept, 3 % for the peak.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from stepvideo.emulator.activations import MicroBatch, of_block
from stepvideo.emulator.dit_memory import dit_parameters
from stepvideo.emulator.memory_check import CASES, Case, accelerators_attention, build, check, inputs
from stepvideo.emulator.tracker import LiveBytes
from stepvideo.emulator.train_memory import Training, TrainMemory, train_memory
from stepvideo.models.config import DiTConfig
from stepvideo.parallel.config import TrainParallelConfig

SMALL = DiTConfig(8, 64, 4, 64, 64, caption_channels=[256, 128])
BATCH = MicroBatch(2, (12, 12, 20), text=243)
LONG = MicroBatch(1, (36, 34, 62))  # 544x992x204
Layout = TrainParallelConfig


QUICK = CASES[2:21:6]
HELD_OUT = (  # after the formulas were made
    Case(DiTConfig(num_attention_heads=16, num_layers=3), MicroBatch(2, (15, 20, 46)), Layout(tensor=4, ulysses=3)),
    Case(
        DiTConfig(num_attention_heads=40, num_layers=2),
        MicroBatch(1, (18, 46, 46), text=77),
        Layout(tensor=2, checkpointing="full"),
    ),
    Case(
        DiTConfig(num_attention_heads=20, attention_head_dim=64, num_layers=4),
        MicroBatch(3, (6, 10, 14), text=320),
        Layout(ulysses=3, checkpointing="fraction", checkpoint_fraction=0.75),
    ),
)


@pytest.fixture(autouse=True)
def an_accelerators_attention() -> Iterator[None]:
    with accelerators_attention():
        yield


@pytest.mark.parametrize("case", [*QUICK, *HELD_OUT], ids=str)
def test_activations_and_peak(case):
    (found,) = check([case])
    kept, peak = found.errors
    assert abs(kept) <= 0.001 and abs(peak) <= 0.03, found


@pytest.mark.soak
def test_activations_and_peak_of_all_layouts():
    found = list(check(CASES))
    assert len(found) >= 20 and all(c.ok for c in found), [str(c) for c in found if not c.ok]


def test_parts_of_a_block_add_up_and_shrink_with_the_ranks():
    def of(**degrees) -> dict:
        return of_block(Training(Layout(**degrees), 8).share(DiTConfig(), LONG))

    one, eight = of(), of(tensor=8)
    assert sum(eight.values()) < 0.3 * sum(one.values())
    assert eight["feed-forward"] == one["feed-forward"] / 8
    assert eight["inputs of matrices"] == one["inputs of matrices"]  # gathered
    assert of(ulysses=4)["text"] == one["text"] and of(tensor=4)["text"] == one["text"] / 4


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

    def of(par: Layout) -> int:
        return sum(of_block(Training(par, ranks=8).share(SMALL, BATCH)).values())

    assert of(Layout(compile=True)) == pytest.approx(one_block, rel=0.03)
    assert of(Layout(compile=True)) < 0.75 * of(Layout())


def test_a_whole_step_of_one_process():
    """Weights, gradients, AdamW's moments and activations together, in fp32."""
    dit, arguments = build(SMALL, torch.float32), inputs(SMALL, BATCH)
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
