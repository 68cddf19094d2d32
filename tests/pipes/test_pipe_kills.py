"""Members of a pipe killed with SIGKILL: nothing is lost, and what one rank alone uses it uses once."""

from __future__ import annotations

from pathlib import Path

from pipe_members import kill_at_random


def test_nothing_is_lost_when_members_are_killed(tmp_path: Path) -> None:
    kills = 8
    assert kill_at_random(tmp_path, kills, seed=7)["produced"] > 5 * kills  # there was work between them
