"""Which plans are possible, and what is said of those that are not."""

from __future__ import annotations

import numpy as np
import pytest

from stepvideo.emulator.hardware import Cluster, find
from stepvideo.emulator.networks import Decoder, Size, decoder_workload, dit_workload
from stepvideo.emulator.plan import Plan, check, grid, problems, valid
from stepvideo.errors import ConfigError
from stepvideo.models.config import DiTConfig

DIT = dit_workload(DiTConfig(), [Size(204, 544, 992)])
LLAMA = decoder_workload(Decoder(12, 8192, 64, 4096, 128256, kv_heads=8, ffn=28672, gated=True))
CLUSTER = Cluster(find("H800"), 256)


def test_the_plan_of_the_report_is_possible():
    check(Plan(tensor=8, data=32, micro_batches=2), DIT, CLUSTER)


@pytest.mark.parametrize(
    ("plan", "said"),
    [
        (Plan(tensor=5), "tensor does not divide the 48 heads"),
        (Plan(tensor=7), "feed-forward width of 24576"),
        (Plan(tensor=8, context=4), "context does not divide the 48 / tensor heads"),
        (Plan(pipeline=8, virtual=7, micro_batches=8), "more pipeline chunks than the 48 layers"),
        (Plan(pipeline=4, virtual=2, micro_batches=6), "interleaving needs micro_batches that pipeline divides"),
        (Plan(virtual=2), "virtual chunks without pipeline stages"),
        (Plan(data=0), "data below 1"),
        (Plan(zero=4), "zero is not 0, 1, 2 or 3"),
        (Plan(recompute=1.5), "recompute is not within 0 and 1"),
        (Plan(tensor=8, data=31), "is not 256 GPUs"),
        (Plan(tensor=16, data=16), "tensor ranks on more than one node"),
    ],
)
def test_an_impossible_plan_is_refused_with_the_reason(plan, said):
    with pytest.raises(ConfigError, match=said):
        check(plan, DIT, CLUSTER)


def test_heads_of_keys_and_values_may_be_copied_but_not_cut():
    assert valid(Plan(tensor=16), LLAMA)
    assert "tensor does not divide the 8 heads of keys and values, nor they it" in "".join(
        reason for reason, mask in problems(Plan(tensor=12), LLAMA).items() if mask.any()
    )


def test_a_ring_divides_tokens_where_ulysses_divides_heads():
    assert not valid(Plan(tensor=8, context=4), DIT)
    assert valid(Plan(tensor=8, context=4, context_kind="ring"), DIT)
    with pytest.raises(ConfigError, match="context_kind='rings': give one of ulysses, ring"):
        Plan(context_kind="rings")


def test_masks_of_a_grid_are_those_of_its_plans():
    plans = grid({"tensor": [1, 5, 8], "context": [1, 3, 4], "pipeline": [1, 4], "virtual": [1, 2, 13]})
    mask = np.broadcast_to(valid(plans, DIT), plans.shape)
    each = [bool(valid(plans.at(i), DIT)) for i in range(mask.size)]
    assert mask.ravel().tolist() == each
    assert 0 < sum(each) < len(each)
    assert plans.at(int(mask.argmax())).describe()["tensor"] == 1
    with pytest.raises(ConfigError, match="no tensors; its numbers are tensor, context"):
        grid({"tensors": [1]})
