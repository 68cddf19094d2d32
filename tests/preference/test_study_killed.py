"""Votes that were acknowledged survive kill -9 of the server, and none counts twice."""

from __future__ import annotations

from pathlib import Path

from killed_study import kill_at_random


def test_five_kills_lose_no_vote(tmp_path: Path) -> None:
    figures = kill_at_random(tmp_path, kills=5, votes=60, seed=1)
    assert figures["acknowledged"] > 5 and figures["votes"] >= 5
