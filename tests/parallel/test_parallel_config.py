"""Degrees: which fit a model, and what is said of those that do not."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepvideo.errors import StepVideoError
from stepvideo.parallel.collectives import shares, spans
from stepvideo.parallel.config import ParallelConfig
from stepvideo.parallel.mesh import connect

HEADS, FFN = 48, 4 * 6144  # the released DiT


def test_any_number_of_ranks_up_to_the_heads() -> None:
    for ranks in range(1, 49):
        ParallelConfig(ulysses=ranks).check(HEADS, FFN)
    ParallelConfig(tensor=8, ulysses=6, cfg=2).check(HEADS, FFN)
    assert ParallelConfig(tensor=8, ulysses=6, cfg=2).world_size == 96


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (ParallelConfig(tensor=7), "parallel.tensor=7 does not divide 48 heads.* nearest that does: 6 or 8"),
        (ParallelConfig(tensor=64), "nearest that does: 48 "),
        (ParallelConfig(ulysses=49), "parallel.ulysses=49 exceeds the 48 heads .* give at most 48"),
        (
            ParallelConfig(tensor=8, ulysses=7),
            r"ulysses=7 exceeds the 6 heads that it divides \(48 heads over 8 tensor ranks\); give at most 6",
        ),
    ],
    ids=repr,
)
def test_what_does_not_fit(config: ParallelConfig, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        config.check(HEADS, FFN)


@pytest.mark.parametrize("name", ["tensor", "ulysses", "cfg"])
def test_no_degree_below_one(name: str) -> None:
    with pytest.raises(ValueError, match=f"parallel.{name}=0"):
        ParallelConfig(**{name: 0})


def test_a_process_alone_is_told_how_to_start_several(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RANK", raising=False)
    said = (
        "tensor 2 · ulysses 3 · cfg 1 = 6 ranks, but this process is alone; start it with --nproc 6, or under torchrun"
    )
    with pytest.raises(StepVideoError, match=re.escape(said)):
        connect(ParallelConfig(tensor=2, ulysses=3))


@given(st.integers(0, 1000), st.integers(1, 16))
def test_shares_are_even_and_complete(n: int, parts: int) -> None:
    sizes = shares(n, parts)
    assert len(sizes) == parts and sum(sizes) == n and max(sizes) - min(sizes) <= 1
    assert [i for span in spans(n, parts) for i in range(n)[span]] == list(range(n))
