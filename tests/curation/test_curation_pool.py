"""A worker that dies or hangs costs one item, never its neighbours."""

from __future__ import annotations

import pytest
from pool_faults import work

from stepvideo.curation.pool import run_chunks
from stepvideo.errors import Preempted


def failed(item: str, reason: str, detail: str) -> str:
    return f"{item}:{reason}"


def run(chunks: list[list[str]], **options: object) -> list[list[str]]:
    settings = {"workers": 2, "timeout_s": 60.0} | options
    done = dict(run_chunks(work, list(enumerate(chunks)), failed, **settings))  # type: ignore[arg-type]
    return [done[i] for i in range(len(chunks))]


def test_a_crash_costs_that_item_only() -> None:
    got = run([["a", "b"], ["c", "abort", "d"], ["abort"], ["e"]])
    assert got == [["A", "B"], ["C", "abort:crash", "D"], ["abort:crash"], ["E"]]


def test_a_hang_is_killed_and_costs_that_item_only() -> None:
    assert run([["a", "hang", "b"], ["c"]], timeout_s=3.0) == [["A", "hang:timeout", "B"], ["C"]]


def test_an_error_that_no_file_is_to_blame_for_is_raised() -> None:
    with pytest.raises(OSError, match="disk full"):
        run([["a"], ["raise"]])


def test_a_stop_request_ends_the_pool() -> None:
    with pytest.raises(Preempted):
        run([["a"], ["hang"]], stop=lambda: True)
