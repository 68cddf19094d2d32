"""100 kills of a study's server at random moments: every acknowledged vote is there once."""

from __future__ import annotations

from pathlib import Path

import pytest
from killed_study import kill_at_random


@pytest.mark.soak
def test_100_kills_lose_no_vote(tmp_path: Path) -> None:
    figures = kill_at_random(tmp_path, kills=100, votes=3000, seed=2026)
    print("\n" + ", ".join(f"{value} {name}" for name, value in figures.items()))
    assert figures["acknowledged"] >= 200  # the loop waits for one to six before each kill
