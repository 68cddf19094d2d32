"""Timestep laws: each sampler follows its density, and the U-shape is one."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from stepvideo.diffusion.config import LAWS, TimestepConfig
from stepvideo.diffusion.schedule import sigmas
from stepvideo.diffusion.timesteps import density, from_uniform, sample_timesteps, time_shift

CONFIGS = [TimestepConfig(law=law, shift=shift) for law in LAWS for shift in (1.0, 3.0)]
CONFIGS += [TimestepConfig(law="u_shape", a=a) for a in (1.0, 10.0)]


def cells(cfg: TimestepConfig, edges: torch.Tensor, n: int = 4000) -> torch.Tensor:
    """Probability of each cell, by the midpoint rule on the density."""
    lo, hi = edges[:-1, None], edges[1:, None]
    return (density(cfg, lo + (hi - lo) * (torch.arange(n) + 0.5) / n) * (hi - lo) / n).sum(1)


@pytest.mark.parametrize("cfg", CONFIGS, ids=str)
def test_samples_follow_the_density(cfg):
    n, edges = 200_000, torch.linspace(0, 1, 21, dtype=torch.float64)
    t = sample_timesteps(cfg, n, torch.Generator().manual_seed(0))
    assert t.dtype == torch.float32 and t.min() >= 0 and t.max() <= 1
    expected = cells(cfg, edges)
    assert expected.sum().item() == pytest.approx(1, abs=1e-3)
    counts = torch.histogram(t.double(), edges)[0]
    deviation = (counts - n * expected) / (n * expected * (1 - expected)).clamp_min(1).sqrt()
    assert deviation.abs().max() < 4.5  # 20 cells, 10 laws: chance 0.001


@pytest.mark.parametrize("cfg", CONFIGS, ids=str)
def test_inverse_of_the_distribution_function(cfg):
    """F(t(u)) = u, with F integrated numerically."""
    u = torch.tensor([0.02, 0.3, 0.5, 0.9])
    for ui, ti in zip(u, from_uniform(cfg, u)):
        edges = torch.tensor([0, ti], dtype=torch.float64)
        assert cells(cfg, edges, 20_000).item() == pytest.approx(ui.item(), abs=1e-3)


def test_u_shape_is_high_at_both_ends_and_the_printed_formula_is_not():
    t = torch.tensor([1e-6, 0.25, 0.5, 0.75, 1 - 1e-6])
    u, literal = (density(TimestepConfig(law=law, a=5.0), t) for law in ("u_shape", "cosh_literal"))
    assert u[0] > u[1] > u[2] < u[3] < u[4]
    torch.testing.assert_close(u, u.flip(0))
    assert (literal.diff() > 0).all() and literal[-1] / literal[0] == pytest.approx(74.2, rel=1e-3)
    exponentials = torch.exp(5 * t.double()) + torch.exp(
        5 * (1 - t.double())
    )  # exp(au) + exp(a(1 - u)), up to a constant
    torch.testing.assert_close(u / exponentials, torch.full_like(u, (u / exponentials)[0].item()))


@given(st.sampled_from(CONFIGS), st.floats(0, 1), st.floats(0, 1))
def test_more_uniform_means_later(cfg, a, b):
    ta, tb = from_uniform(cfg, torch.tensor([min(a, b), max(a, b)], dtype=torch.float64)).tolist()
    assert 0 <= ta <= tb <= 1


def test_shift_is_that_of_the_sampler():
    torch.testing.assert_close(time_shift(torch.linspace(0, 1, 11), 13.0), sigmas(10, 13.0))


def test_a_seed_fixes_the_draw_and_strata_cover_the_range():
    cfg = TimestepConfig(law="u_shape")
    a, b = (sample_timesteps(cfg, 64, torch.Generator().manual_seed(3), stratified=True) for _ in range(2))
    assert torch.equal(a, b)
    uniform = sample_timesteps(TimestepConfig(), 64, torch.Generator().manual_seed(3), stratified=True)
    assert torch.equal((uniform * 64).long().sort().values, torch.arange(64))
    assert not torch.equal(uniform, uniform.sort().values)


@pytest.mark.parametrize(
    ("change", "message"),
    [({"law": "beta"}, "law='beta': choose one of uniform"), ({"a": 0}, "a=0"), ({"shift": -1}, "shift=-1")],
)
def test_wrong_configs_are_named(change, message):
    with pytest.raises(ValueError, match=message):
        TimestepConfig(**change)
