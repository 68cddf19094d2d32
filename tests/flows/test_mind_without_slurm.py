"""What needs Slurm says so at once where there is none."""

from __future__ import annotations

from pathlib import Path

import pytest

from stepvideo.cli import main


@pytest.mark.parametrize("words", [["watch", "--folder", "."], ["links", "a", "b"], ["reserve", "a"]])
def test_a_command_of_the_cluster_without_slurm(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert main(["mind", *words]) == 2
    assert "is not in PATH: install Slurm's commands" in capsys.readouterr().err
