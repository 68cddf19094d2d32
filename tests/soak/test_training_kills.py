"""Every kind of training, killed three times at steps drawn from a seed, through the real command."""

from __future__ import annotations

import pytest
from killed_stages import STAGES, Command, finished, killed, make_inputs, prepare, reshard

pytestmark = pytest.mark.soak


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    return make_inputs(tmp_path_factory.mktemp("inputs"))


@pytest.mark.parametrize("name", STAGES)
def test_killed_three_times(inputs, tmp_path, name):
    whole = finished(prepare(name, inputs, tmp_path / "whole"), Command)
    assert killed(prepare(name, inputs, tmp_path / "killed"), kills=3, seed=0, run=Command) == whole


@pytest.mark.parametrize("before", [{"zero": 1}, {"zero": 3}, {"tensor": 2}, {"ulysses": 2}], ids=str)
@pytest.mark.parametrize("after", [{"zero": 2}, {"tensor": 2}, {"ulysses": 2}], ids=str)
def test_killed_on_four_ranks_and_continued_on_two(inputs, tmp_path, before, after):
    reshard(inputs, tmp_path, before, after)
