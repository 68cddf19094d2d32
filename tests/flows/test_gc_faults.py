"""gc that is killed, and gc beside runs; longer in tests/soak."""

from __future__ import annotations

from kept_store import killed_gcs, runs_beside_gc


def test_a_gc_that_is_killed_leaves_whole_artifacts_or_none(mini) -> None:
    killed_gcs(mini, 25, 1)


def test_runs_beside_gc_come_to_the_same_results(mini) -> None:
    runs_beside_gc(mini, 2)
