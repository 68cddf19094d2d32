"""gc that is killed many times, and beside many runs."""

from __future__ import annotations

import pytest
from fixtures import mini, toys  # noqa: F401
from kept_store import killed_gcs, runs_beside_gc

pytestmark = pytest.mark.soak


def test_many_killed_gcs(mini) -> None:  # noqa: F811
    killed_gcs(mini, 120, 25)


def test_many_runs_beside_gc(mini) -> None:  # noqa: F811
    runs_beside_gc(mini, 40)
