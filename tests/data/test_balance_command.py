"""`stepvideo balance`: the bar of load balance, in both readings of "equal shares", beside its controls."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys

import numpy as np
import pytest

from stepvideo.data import balance_command
from stepvideo.data.balance_table import VIDEOS, Stream, costs, simulate, utilisation
from stepvideo.errors import StepVideoError
from stepvideo.models.config import DiTConfig

SHORT = ["--steps", "200", "--seeds", "2"]


def run(*args: str) -> int:
    parser = argparse.ArgumentParser()
    balance_command.add_arguments(parser)
    return balance_command.call(parser.parse_args([*SHORT, *args]))


@pytest.mark.parametrize("shares", ["packs", "samples"])
def test_hybrid_reaches_the_bar_and_its_controls_do_not(shares, capsys):
    assert run("--shares", shares, "--images", "8", "--check", "--json") == 0
    rows = {(r["method"], r["spread"]): r["mean"] for r in json.loads(capsys.readouterr().out)["rows"]}
    assert rows["hybrid", True] >= 0.98
    assert rows["none", False] < rows["coarse", False] < rows["uniform", False] < 0.9 < rows["hybrid", False]


def test_equals_the_prototype_on_equal_packs():
    """An independent simulation gave these before this code was written (random order, 8 ranks)."""
    flops, stream = costs(DiTConfig(), 256), Stream(steps=500, seeds=2)
    for method, images, known in [
        ("none", 0, 0.638),
        ("coarse", 0, 0.825),
        ("uniform", 8, 0.856),
        ("hybrid", 4, 0.927),
        ("hybrid", 8, 0.984),
        ("hybrid", 16, 0.991),
    ]:
        assert np.mean(simulate(flops, stream, method, images, spread=False)) == pytest.approx(known, abs=0.006)


def test_a_missed_bar_exits_1(capsys):
    assert run("--images", "8", "--shares", "1,1,9,9,1,1", "--check") == 1
    out = capsys.readouterr().out
    assert "MISSED" in out and all(b in out for b in VIDEOS)


def test_one_rank_is_always_busy(capsys):
    assert run("--ranks", "1", "--images", "3") == 0
    assert "bar:" not in capsys.readouterr().out
    assert utilisation(np.array([[2.0], [7.0]])).tolist() == [1.0, 1.0]
    assert utilisation(np.array([[1.0, 3.0]])).tolist() == [2 / 3]


def test_mistakes_are_told(capsys):
    with pytest.raises(StepVideoError, match="add 8 to --images"):
        run("--check", "--images", "4")
    with pytest.raises(StepVideoError, match="give 30b, 4b, or a folder"):
        run("--model", "7b")
    for args in (["--ranks", "0"], ["--shares", "1,2"], ["--shares", "1,1,1,1,1,-1"], ["--table", "--json"]):
        with pytest.raises(SystemExit) as e:
            run(*args)
        assert e.value.code == 2
    capsys.readouterr()


def test_needs_no_torch():
    code = (
        "import sys; import stepvideo.data.balance_command, stepvideo.data.balance_table; print('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "False\n"
