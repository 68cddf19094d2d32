"""kill -9 in the middle of every kind of training, then the same command again: the same artifact, bit for bit."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from killed_stages import STAGES, finished, killed, make_inputs, prepare, reshard

from stepvideo.training.snapshots import Snapshots


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    return make_inputs(tmp_path_factory.mktemp("inputs"))


# The others are soak's: tests/soak/test_training_kills.py kills each of them three times.
HERE = {"sft"}


@pytest.mark.parametrize("name", [pytest.param(n, marks=[] if n in HERE else [pytest.mark.soak]) for n in STAGES])
def test_a_killed_stage_ends_as_an_undisturbed_one(inputs, tmp_path, name):
    """In forks, which need not import torch anew; soak gives the command that people give."""
    whole = finished(prepare(name, inputs, tmp_path / "whole"))
    assert any(path.endswith(".safetensors") for path in whole)
    assert killed(prepare(name, inputs, tmp_path / "killed"), kills=1, seed=0) == whole


def test_killed_on_two_ranks_and_continued_on_one(inputs, tmp_path):
    """Four ranks and two, in twelve layouts: tests/soak/test_training_kills.py."""
    reshard(inputs, tmp_path, {"zero": 3}, {"zero": 1}, ranks=2)


def test_snapshots_are_still_there_after_a_kill_behind_the_hand_over(tmp_path):
    for name in ("work", "out", "again"):
        (tmp_path / name).mkdir()
    weights = tmp_path / "work" / "snapshots" / "step-0000002" / "transformer" / "w.safetensors"
    weights.parent.mkdir(parents=True)
    weights.write_bytes(b"weights")
    for out in (tmp_path / "out", tmp_path / "again"):  # a job that runs again begins with an empty folder
        Snapshots(SimpleNamespace(steps=4), SimpleNamespace(work=tmp_path / "work", out=out), 2).hand_over()
        assert (out / weights.relative_to(tmp_path / "work")).read_bytes() == b"weights"
