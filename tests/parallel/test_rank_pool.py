"""The processes that tests of parallelism run in."""

from __future__ import annotations

import time

import pytest
from rank_pool import RankPool


def test_an_answer_that_comes_too_late_is_not_the_next_calls():
    with RankPool(1) as pool:
        assert pool(1, abs, -1) == [1]
        whole, pool.timeout_s = pool.timeout_s, 0.1
        with pytest.raises(AssertionError, match="rank 0 of sleep.* does not answer"):
            pool(1, time.sleep, 2)
        pool.timeout_s = whole
        assert pool(1, abs, -2) == [2]
