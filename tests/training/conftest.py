"""The random latent cache, and processes that play ranks, for the tests of this folder."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "toys"), str(HERE.parent / "parallel")]

from latent_cache import cache, stage, subsets  # noqa: E402, F401
from rank_pool import RankPool  # noqa: E402


@pytest.fixture(scope="module")
def ranks() -> Iterator[RankPool]:
    with RankPool(4) as pool:
        yield pool
