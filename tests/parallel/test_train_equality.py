"""Training over ranks gives what one process gives: one row a combination, each with every way to recompute and to
accumulate. Losses and norms of five AdamW steps, every gradient of each and every parameter after them."""

from __future__ import annotations

from pathlib import Path

import pytest
import sharding_cases as faults
import train_cases as cases
from train_cases import Variant

from stepvideo.models.config import DiTConfig
from stepvideo.parallel.config import TrainParallelConfig as Plan

DIT = DiTConfig(4, 16, 2, 4, 4, caption_channels=[12, 8])
BAR = 1e-5
FEW = [Variant("none", 1), Variant("full", 2)]
ALL = [*FEW, Variant("none", 2), Variant("attention", 1)]
ROWS = [
    ("zero0", 2, Plan(zero=0)),
    ("zero1", 2, Plan(zero=1)),
    ("zero2", 2, Plan(zero=2)),
    ("zero3", 2, Plan(zero=3)),
    ("zero3-3", 3, Plan(zero=3)),
    ("hsdp2x2-zero1", 4, Plan(zero=1, shard=2)),
    ("hsdp2x2-zero2", 4, Plan(zero=2, shard=2)),
    ("tensor2", 2, Plan(tensor=2, sequence=False)),
    ("tensor2-sequence", 2, Plan(tensor=2)),
    ("tensor4-sequence", 4, Plan(tensor=4)),
    ("ulysses2", 2, Plan(ulysses=2)),
    ("ulysses3-4-heads", 3, Plan(ulysses=3)),
    ("ulysses2-zero0", 2, Plan(ulysses=2, zero=0)),
    ("tensor2-ulysses2", 4, Plan(tensor=2, ulysses=2, sequence=False)),
    ("tensor2-sequence-ulysses2", 4, Plan(tensor=2, ulysses=2)),
    ("tensor2-zero3", 4, Plan(tensor=2, zero=3, sequence=False)),
    ("tensor2-sequence-zero1", 4, Plan(tensor=2, zero=1)),
    ("tensor2-sequence-zero0", 4, Plan(tensor=2, zero=0)),
    ("ulysses2-zero3", 4, Plan(ulysses=2, zero=3)),
]


@pytest.fixture(scope="module")
def record(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("alone") / "record.pt"
    cases.alone(DIT, path)
    return path


SOAK = pytest.mark.soak
# Of the products each kind once; the others are soak's.
LONG = {"zero3-3", "hsdp2x2-zero1", "tensor4-sequence", "ulysses3-4-heads", "ulysses2-zero0", "tensor2-ulysses2"}
LONG |= {"tensor2-zero3", "tensor2-sequence-zero0", "tensor2-sequence-zero1", "tensor2", "tensor2-sequence"}
LONG |= {"zero1", "zero2", "ulysses2"}


@pytest.mark.parametrize(
    ("world_size", "plan"),
    [pytest.param(*r[1:], id=r[0], marks=[SOAK] if r[0] in LONG else []) for r in ROWS],
)
def test_equals_one_process(ranks, record, world_size, plan) -> None:
    variants = ALL if world_size == 2 else FEW  # the rest adds nothing to what more ranks do
    for answer in ranks(world_size, cases.together, DIT, plan, variants, record, world_size):
        worst = {v: max(gaps.items(), key=lambda item: item[1]) for v, gaps in answer.items()}
        assert all(value < BAR for _, value in worst.values()), worst


@pytest.mark.parametrize(
    ("fault", "wrong"),
    [
        ("parts not added up", "gradient 0 transformer_blocks.0.norm1.weight"),
        pytest.param("parts added up twice", "gradient 0 transformer_blocks.0.scale_shift_table", marks=SOAK),
        pytest.param("tokens' part of the time", "gradient 0 adaln_single.linear.weight", marks=SOAK),
    ],
)
def test_a_fault_would_be_seen(ranks, record, fault, wrong) -> None:
    """The comparison fails by far, and where it should."""
    for gaps in ranks(2, faults.faulty, fault, DIT, Plan(tensor=2), record, 2):
        assert gaps[wrong] > 1000 * BAR
        assert gaps["losses 0"] < BAR  # the first forward does not know yet
