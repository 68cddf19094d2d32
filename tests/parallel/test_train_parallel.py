"""What a training over ranks holds, sends, recomputes and refuses."""

from __future__ import annotations

from dataclasses import replace

import pytest
import sharding_cases as cases

from stepvideo.errors import ConfigError
from stepvideo.models.config import DiTConfig
from stepvideo.parallel.config import TrainParallelConfig as Plan
from stepvideo.parallel.train import TrainParallel

DIT = DiTConfig(4, 16, 2, 4, 4, caption_channels=[12, 8])
GROUPS = 3  # of parameters: two blocks and the rest
GATHER, SCATTER = {"allgather_base": GROUPS}, {"reduce_scatter_base": GROUPS}
AGAIN = {"allgather_base": 2, "reduce_scatter_base": GROUPS}  # backward gathers blocks, not the rest


@pytest.mark.parametrize(
    ("plan", "sent"),
    [
        (Plan(zero=0), [({}, {}), ({}, {}), ({}, {"allreduce": GROUPS})]),
        (Plan(zero=1), [(GATHER, {}), ({}, {}), ({}, SCATTER)]),
        (Plan(zero=2), [(GATHER, SCATTER), ({}, SCATTER), ({}, SCATTER)]),
        (Plan(zero=3), [(GATHER, AGAIN)] * 3),
    ],
    ids=["zero0", "zero1", "zero2", "zero3"],
)
def test_which_micro_batch_exchanges_what(ranks, plan, sent) -> None:
    """ZeRO-1 gathers weights in a step's first forward and reduces gradients in its last backward (§6.2.2)."""
    for counts in ranks(2, cases.exchanges, DIT, plan, 2):
        assert counts == sent


@pytest.mark.parametrize(
    ("world_size", "plan", "share"),
    [(2, Plan(zero=0), 1), (2, Plan(zero=1), 1 / 2), (4, Plan(zero=3), 1 / 4), (4, Plan(zero=1, shard=2), 1 / 2)],
)
def test_a_rank_holds_its_share(ranks, world_size, plan, share) -> None:
    """Of master weights and of both moments; between steps nothing is gathered."""
    answers = ranks(world_size, cases.held, DIT, plan, world_size)
    for held in answers:
        assert held["parameters"] == pytest.approx(share, rel=0.02)
        assert held["optimizer"] == pytest.approx(2 * share, rel=0.02)
        assert held["at rest"]
    assert sum(held["parameters"] for held in answers) == pytest.approx(world_size * share)


def test_tensor_ranks_hold_half_of_the_matrices(ranks) -> None:
    for held in ranks(2, cases.held, DIT, Plan(tensor=2), 2):
        assert held["parameters"] < 0.75 and held["optimizer"] < 1.5


@pytest.mark.parametrize(
    ("world_size", "plan"),
    [(2, Plan(zero=3, checkpointing="full")), (4, Plan(tensor=2, zero=1)), (2, Plan(zero=0))],
)
def test_whole_again(ranks, world_size, plan) -> None:
    for whole, names in ranks(world_size, cases.undivided, DIT, plan, world_size):
        assert whole and names


def test_one_process_needs_no_others() -> None:
    assert cases.undivided(DIT, Plan(checkpointing="attention"), 1) == (True, True)
    assert TrainParallel.start(Plan(), 1, "cpu").mesh is None


@pytest.mark.parametrize("plan", [Plan(zero=1), Plan(tensor=2), Plan(ulysses=2)], ids=repr)
def test_bf16_computes_beside_fp32_weights(ranks, plan) -> None:
    for loss, grad, computed, held in ranks(2, cases.mixed, DIT, "bf16-mixed", plan, 2):
        assert abs(loss) < 0.02 and grad < 0.1
        assert (computed, held) == ("torch.bfloat16", "torch.float32")


def test_fp8_emulated_is_near(ranks) -> None:
    alone = cases.mixed(DIT, "fp8-emulated", Plan(), 1)
    for loss, grad, *_ in [alone, *ranks(2, cases.mixed, DIT, "fp8-emulated", Plan(), 2)]:
        assert 1e-6 < abs(loss) < 0.1 and 0.01 < grad < 0.5


@pytest.mark.parametrize("zero", [1, 3])
def test_a_network_called_by_methods_and_unfrozen_later(ranks, zero) -> None:
    assert max(ranks(2, cases.by_methods, 2, zero)) < 5e-4


def test_what_is_recomputed() -> None:
    """Of two blocks with two attentions each; backward without recomputation has products of its own."""
    products = cases.recomputed(DIT, "none", 1.0)[1]
    expected = {"none": 0, "full": 4, "fraction": 2, "attention": 0}
    found = {policy: cases.recomputed(DIT, policy, 0.5) for policy in expected}
    assert {policy: attentions for policy, (attentions, _) in found.items()} == expected
    assert products < found["fraction"][1] < found["full"][1]
    assert found["attention"][1] == found["full"][1]


def test_ranks_talk(ranks) -> None:
    assert ranks(3, cases.talk, 3) == [(1.0, True, False, 7)] * 3
    assert cases.talk(1) == (0.0, False, False, 7)


SPACE_TIME = replace(DIT, attention="spatial_temporal")


@pytest.mark.parametrize(
    ("cfg", "plan", "said"),
    [
        (DIT, Plan(tensor=3), "parallel.tensor=3 x parallel.ulysses=1 = 3 does not divide 2 ranks"),
        (DIT, Plan(shard=4), "parallel.shard=4 does not divide the 2 data ranks (2 ranks / 1); give one of 1, 2"),
        (replace(DIT, num_attention_heads=3), Plan(tensor=2), "parallel.tensor=2 does not divide 3 heads"),
        (replace(DIT, num_attention_heads=1), Plan(ulysses=2), "parallel.ulysses=2 exceeds the 1 heads"),
        (SPACE_TIME, Plan(tensor=2), "set parallel.sequence=false"),
        (SPACE_TIME, Plan(ulysses=2), "parallel.ulysses=2 divides full attention"),
        (DIT, Plan(tensor=2, compile=True, async_tensor=True), "needs CUDA devices, not cpu"),
    ],
)
def test_refused(ranks, cfg, plan, said) -> None:
    for answer in ranks(2, cases.refused, cfg, plan, 2):
        assert answer.startswith("ConfigError") and said in answer


def test_refused_by_one_process() -> None:
    assert "2 does not divide 1 ranks" in cases.refused(DIT, Plan(tensor=2), 1)
    assert "precision=fp8 needs a CUDA device of compute capability 8.9" in cases.refused(DIT, Plan(), 1, "fp8")
    with pytest.raises(ConfigError, match="runtime.nproc=2, but 1 ranks were started; start 2"):
        TrainParallel.start(Plan(), 2, "cpu")


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"zero": 4}, "parallel.zero=4: give 0"),
        ({"zero": 0, "shard": 2}, "parallel.shard=2 with parallel.zero=0"),
        ({"shard": -1}, "parallel.shard=-1"),
        ({"ulysses": 0}, "parallel.ulysses=0"),
        ({"checkpointing": "some"}, "give one of none, full, fraction, attention"),
        ({"checkpoint_fraction": 1.5}, r"must lie in \[0, 1\]"),
        ({"async_tensor": True}, "parallel.async_tensor=true overlaps"),
    ],
)
def test_no_such_config(values, said) -> None:
    with pytest.raises(ValueError, match=said):
        Plan(**values)
