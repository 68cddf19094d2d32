"""Guidance: Eq. 11, the cost of a run, and halves that must fit together."""

from __future__ import annotations

import pytest
import torch

from stepvideo.diffusion.config import GuidanceConfig, ScheduleConfig
from stepvideo.diffusion.guidance import evaluations, join, sample, scale_at
from stepvideo.diffusion.schedule import sigmas

TURBO = GuidanceConfig("diminishing", 5.0)


def field(hidden_states, timestep, target):
    """The exact velocity towards `target`: (target − x) / (1 − t)."""
    return (target - hidden_states) / (1 - timestep)[:, None]


def test_eq_11_on_the_turbo_schedule():
    scales = [scale_at(TURBO, t) for t in sigmas(10, 17.0)[:-1].tolist()]
    assert scales == pytest.approx([5, 4.77, 4.48, 4.12, 3.64, 3.0, 2.08, 1, 1, 1], abs=0.01)
    assert sum(s > 1 for s in scales) == 7
    assert evaluations(TURBO, sigmas(10, 17.0)) == 17
    assert evaluations(TURBO, sigmas(8, 17.0)) == 14


def test_eq_11_reaches_1_at_a_ninth():
    assert scale_at(TURBO, 0.0) == 5
    assert scale_at(TURBO, 1 / 9 - 1e-6) > 1
    assert scale_at(TURBO, 1 / 9 + 1e-6) == scale_at(TURBO, 1.0) == 1


@pytest.mark.parametrize(("guidance", "nfe"), [(None, 10), (GuidanceConfig(scale=9.0), 20), (TURBO, 17)])
@pytest.mark.parametrize("batched", [True, False])
def test_counts_and_skips_evaluations(guidance, nfe, batched):
    rows = []

    def velocity(hidden_states, timestep, target):
        rows.append(len(hidden_states))
        return field(hidden_states, timestep, target)

    times = sigmas(10, 17.0)
    cond, uncond = {"target": torch.ones(3, 2)}, {"target": torch.ones(3, 2)}
    out = sample(velocity, torch.randn(3, 2), times, cond, uncond, guidance, batched=batched)
    assert (out.steps, out.nfe, sum(rows)) == (10, nfe, 3 * nfe)
    assert nfe == evaluations(guidance or GuidanceConfig(scale=1.0), times)
    torch.testing.assert_close(out.latents, torch.ones(3, 2))


def test_a_guided_step_extrapolates():
    cond, uncond = {"target": torch.full((1, 1), 2.0)}, {"target": torch.full((1, 1), 1.0)}
    out = sample(field, torch.zeros(1, 1), torch.tensor([0.0, 1.0]), cond, uncond, GuidanceConfig(scale=3.0))
    assert out.latents.item() == pytest.approx(1 + 3 * (2 - 1))


def test_steps_are_fp32_even_from_a_bf16_model():
    def velocity(hidden_states, timestep):
        assert hidden_states.dtype == timestep.dtype == torch.float32
        return torch.full_like(hidden_states, 1e-3, dtype=torch.bfloat16)

    out = sample(velocity, torch.ones(1, 1, dtype=torch.bfloat16), sigmas(50, 1.0), {})
    assert out.latents.dtype == torch.float32
    assert out.latents.item() == pytest.approx(1 + 1e-3, abs=1e-5)  # bf16 would stay at 1


def test_halves_that_do_not_fit_are_named():
    a = {"text": torch.zeros(2, 3), "motion_score": 5.0}
    assert join(a, a)["text"].shape == (4, 3) and join(a, a)["motion_score"] == 5.0
    with pytest.raises(ValueError, match="'extra'"):
        join(a | {"extra": 1}, a)
    with pytest.raises(ValueError, match="text is"):
        join(a, a | {"text": torch.zeros(2, 4)})
    with pytest.raises(ValueError, match="motion_score is 5.0"):
        join(a, a | {"motion_score": 2.0})
    with pytest.raises(ValueError, match="needs `uncond`"):
        sample(field, torch.zeros(1, 1), sigmas(2), {"target": torch.ones(1, 1)}, guidance=GuidanceConfig(scale=2.0))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: GuidanceConfig("linear"), "kind='linear'"),
        (lambda: GuidanceConfig("diminishing", 0.5), "scale=0.5"),
        (lambda: ScheduleConfig(steps=0), "steps=0"),
        (lambda: ScheduleConfig(time_shift=0), "time_shift=0"),
        (lambda: sigmas(0), "steps=0"),
    ],
)
def test_wrong_configs_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()
