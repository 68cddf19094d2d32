"""A whole training step by torch's MemTracker on fake tensors: FSDP2, optimizer, activations; peak within 3 %."""

from __future__ import annotations

import pytest

from stepvideo.emulator.step_check import BAR, CASES, tracked


def test_peak_of_a_step_with_divided_weights():
    found, predicted = tracked(CASES[1])
    assert 30e9 < found < 40e9 and predicted == pytest.approx(found, rel=BAR)


@pytest.mark.soak
@pytest.mark.parametrize("case", CASES, ids=str)
def test_peak_of_a_step(case):
    found, predicted = tracked(case)
    assert predicted == pytest.approx(found, rel=BAR)
