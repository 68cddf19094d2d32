"""kill -9 in the middle of every kind of training, then the same command again: the same artifact, bit for bit."""

from __future__ import annotations

import pytest
import torch
from killed_stages import STAGES, Command, Forks, finished, kill_after, killed, make_inputs, prepare
from safetensors.torch import load_file

WEIGHTS = "transformer/diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    return make_inputs(tmp_path_factory.mktemp("inputs"))


@pytest.mark.parametrize("name", STAGES)
def test_a_killed_stage_ends_as_an_undisturbed_one(inputs, tmp_path, name):
    whole = finished(prepare(name, inputs, tmp_path / "whole"))
    assert any(path.endswith(".safetensors") for path in whole)
    assert killed(prepare(name, inputs, tmp_path / "killed"), kills=1, seed=0) == whole


def test_by_the_command_that_anyone_can_give(inputs, tmp_path):
    whole = finished(prepare("sft", inputs, tmp_path / "whole"))
    assert killed(prepare("sft", inputs, tmp_path / "killed"), kills=1, seed=1, run=Command) == whole


PLAIN = {"name": "adamw", "lr": 3e-3, "ema": 0.8}  # Muon's bfloat16 turns the last bits of a sum into 1e-3 of a step


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({"tensor": 2, "zero": 3}, {"tensor": 1, "zero": 1}),
        ({"tensor": 1, "zero": 1}, {"tensor": 2, "zero": 1}),
    ],
    ids=["tensor2 x fsdp2 to fsdp2", "fsdp4 to tensor2"],
)
def test_killed_on_four_ranks_and_continued_on_two(inputs, tmp_path, before, after):
    four = prepare("t2vi", inputs, tmp_path / "whole", nproc=4, parallel=before)
    finished(four)
    directory = prepare("t2vi", inputs, tmp_path / "killed", nproc=4, parallel=before)
    kill_after(directory, 8, Forks)
    prepare("t2vi", inputs, tmp_path / "killed", nproc=2, parallel=after)
    finished(directory)
    a, b = (load_file(d / "out" / WEIGHTS) for d in (four, directory))
    difference = torch.cat([(a[k] - b[k]).flatten() for k in a]).norm()
    assert 0 < difference < 1e-5 * torch.cat([v.flatten() for v in a.values()]).norm()
