"""Checkpoints of several ranks: any division is read by any other, and ranks agree on what went wrong."""

from __future__ import annotations

import pytest
import torch
from checkpoint_cases import LAYOUTS, damaged_on_one_rank, fails_on_one_rank, train

EXACT = {"rtol": 0.0, "atol": 0.0}


@pytest.fixture(scope="module")
def undivided(ranks, tmp_path_factory):
    """State at steps 4 and 8 of one process that was never interrupted."""
    folder = tmp_path_factory.mktemp("undivided")
    return {stop: ranks(1, train, "one", folder, False, stop)[0][0] for stop in (4, 8)}


@pytest.mark.parametrize("before", LAYOUTS)
def test_divided_optimizers_and_averages_equal_undivided_ones(ranks, undivided, tmp_path, before):
    for state, _ in ranks(LAYOUTS[before], train, before, tmp_path, False, 4):
        torch.testing.assert_close(state, undivided[4], **EXACT)


@pytest.mark.parametrize(
    "chain",
    [
        ("fsdp4", "fsdp2", "one"),
        ("tensor2 x fsdp2", "fsdp2", "one"),
        ("tensor2", "fsdp4", "replicas"),
        ("one", "tensor2 x fsdp2", "replicas2 x fsdp2"),
    ],
    ids=" to ".join,
)
def test_any_division_goes_on_from_any_other(ranks, undivided, tmp_path, chain):
    for n, (layout, stop) in enumerate(zip(chain, (4, 6, 8), strict=True)):
        results = ranks(LAYOUTS[layout], train, layout, tmp_path, n > 0, stop)
        assert all(first[:2] == ((0, []), (4, [1, 2, 3, 4]), (6, [1, 2, 3, 4, 5, 6]))[n] for _, first in results)
    for state, _ in results:
        torch.testing.assert_close(state, undivided[8], **EXACT)


def test_generators_of_each_rank(ranks, tmp_path):
    """A rank's stream goes on; a rank that the saved run did not have gets a stream of its own, the same every time."""

    def drawn_first(layout, load):
        return [first[2] for _, first in ranks(LAYOUTS[layout], train, layout, tmp_path, load, 4)]

    began, went_on = drawn_first("replicas", False), drawn_first("replicas", True)
    drawn_first("replicas", False)
    more = drawn_first("fsdp4", True)
    assert len({*began, *went_on}) == 4, "streams began anew"
    assert more[:2] == went_on and len(set(more)) == 4
    drawn_first("replicas", False)
    assert drawn_first("fsdp4", True) == more


def test_all_ranks_raise_the_error_of_one(ranks, tmp_path):
    for said, there, newest in ranks(2, fails_on_one_rank, tmp_path):
        assert "checkpoint 2 was not written (rank 1: File too large)" in said
        assert there == ["step-0000001"] and newest == 1


def test_all_ranks_pass_over_what_one_finds_damaged(ranks, tmp_path):
    assert ranks(2, damaged_on_one_rank, tmp_path) == [1, 1]
