"""The path and the losses: values at known points, signs of gradients, equalities between formulas."""

from __future__ import annotations

import math

import pytest
import torch

from stepvideo.diffusion.objectives import dpo_loss, reflow_loss, reflow_weight, velocity_loss
from stepvideo.diffusion.path import interpolate, predict_data, predict_noise, velocity


def test_path_runs_from_noise_to_data():
    draw = torch.Generator().manual_seed(0)
    x0, x1 = torch.randn(2, 3, 4, 2, 2, 2, generator=draw)
    assert torch.equal(interpolate(x0, x1, torch.zeros(3)), x0)
    assert torch.equal(interpolate(x0, x1, torch.ones(3)), x1)
    t = torch.tensor([0.1, 0.5, 0.9])
    x_t, v = interpolate(x0, x1, t), velocity(x0, x1)
    torch.testing.assert_close(predict_data(x_t, v, t), x1)
    torch.testing.assert_close(predict_noise(x_t, v, t), x0)
    step = (interpolate(x0, x1, t + 1e-2) - x_t) / 1e-2
    torch.testing.assert_close(step, v, atol=1e-4, rtol=1e-4)


def test_velocity_loss_is_a_mean_a_sample_in_fp32():
    v = torch.zeros(2, 3, 4, 5, 6, dtype=torch.bfloat16)
    pred = torch.stack([torch.full((3, 4, 5, 6), 2.0), torch.full((3, 4, 5, 6), -1.0)]).bfloat16()
    loss = velocity_loss(pred, v)
    assert loss.dtype == torch.float32 and loss.tolist() == [4.0, 1.0]


def losses(n: int = 6) -> list[torch.Tensor]:
    draw = torch.Generator().manual_seed(0)
    return [torch.rand(n, generator=draw).requires_grad_(i < 2) for i in range(4)]


def test_dpo_is_log_2_at_the_reference():
    policy_w, policy_l, _, _ = losses()
    out = dpo_loss(policy_w, policy_l, policy_w.detach(), policy_l.detach(), beta=100.0)
    torch.testing.assert_close(out.loss, torch.full((6,), math.log(2)))
    assert not out.z.any() and not out.reward_w.any() and not out.accurate.any()
    torch.testing.assert_close(out.gradient_scale, torch.full((6,), 50.0))


@pytest.mark.parametrize("beta", [0.5, 20.0])
def test_dpo_improves_the_winner_and_worsens_the_loser(beta):
    policy_w, policy_l, ref_w, ref_l = losses()
    out = dpo_loss(policy_w, policy_l, ref_w, ref_l, beta)
    out.loss.sum().backward()
    assert (policy_w.grad > 0).all() and (
        policy_l.grad < 0
    ).all()  # descent lowers the winner's error, raises the loser's
    torch.testing.assert_close(policy_w.grad, -policy_l.grad)
    torch.testing.assert_close(policy_w.grad, 0.5 * out.gradient_scale)  # Eq. 9: β·(1 − σ(βz)) · ∂z/∂L
    expected = -torch.log(torch.sigmoid(beta * out.z))
    torch.testing.assert_close(out.loss.detach(), expected)
    torch.testing.assert_close(out.reward_w - out.reward_l, beta * out.z)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("beta", [1.0, 30.0, 5000.0])
def test_the_gradient_is_that_of_equation_9(beta, smoothing):
    """∂L/∂θ = −β·(1 − σ(βz))·∂z/∂θ, by autograd through a network of one layer."""
    draw = torch.Generator().manual_seed(0)
    theta = torch.randn(4, 3, generator=draw, dtype=torch.float64).requires_grad_()
    x_w, x_l, target = torch.randn(3, 5, 3, generator=draw, dtype=torch.float64)
    reference = torch.randn(4, 3, generator=draw, dtype=torch.float64)

    def error(weight, x):
        return ((x @ weight.T)[:, :3] - target).square().mean(1)

    out = dpo_loss(error(theta, x_w), error(theta, x_l), error(reference, x_w), error(reference, x_l), beta, smoothing)
    (found,) = torch.autograd.grad(out.loss.sum(), theta)
    z = -0.5 * ((error(theta, x_w) - error(reference, x_w)) - (error(theta, x_l) - error(reference, x_l)))
    factor = beta * (1 - torch.sigmoid(beta * z.detach()) - smoothing)
    (expected,) = torch.autograd.grad((-factor * z).sum(), theta)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4 * beta)
    torch.testing.assert_close(out.gradient_scale.double(), factor, rtol=1e-4, atol=1e-5 * beta)


def test_label_smoothing_stops_at_the_margin_where_a_label_is_as_sure_as_that():
    margin = torch.tensor([-2.0, 0.0, math.log(4), 5.0])  # σ(log 4) = 0.8
    zero = torch.zeros(4)
    policy = (-margin).requires_grad_()  # z = margin / 2
    out = dpo_loss(policy, zero, zero, zero, beta=2.0, label_smoothing=0.2)
    out.loss.sum().backward()
    assert (policy.grad.sign() == torch.tensor([1.0, 1.0, 0.0, -1.0])).logical_or(policy.grad.abs() < 1e-6).all()
    assert policy.grad[2].abs() < 1e-6 and torch.equal(out.gradient_scale.sign()[[0, 1, 3]], torch.tensor([1.0, 1, -1]))


def test_shuffled_labels_gain_nothing():
    """Each pair with both labels: no pull at the reference, and back to it from anywhere else."""

    def pull(shift: float) -> float:
        change = torch.tensor([0.3, -0.2, 0.5])  # of a pair's two errors, by a step along θ
        theta = torch.tensor(shift, requires_grad=True)
        w, loser, ref = theta * change, -theta * change, torch.zeros(3)
        both = dpo_loss(w, loser, ref, ref, 20.0).loss + dpo_loss(loser, w, ref, ref, 20.0).loss
        both.sum().backward()
        return float(theta.grad)

    assert pull(0.0) == pytest.approx(0, abs=1e-6) and pull(0.5) > 0 > pull(-0.5)


def test_dpo_is_accurate_where_the_policy_gained_more_on_the_winner():
    policy_w, policy_l = torch.tensor([0.5, 1.0, 0.8]), torch.tensor([1.0, 0.5, 0.9])
    out = dpo_loss(policy_w, policy_l, torch.ones(3), torch.ones(3), beta=10.0)
    torch.testing.assert_close(out.z, torch.tensor([0.25, -0.25, 0.05]))
    assert out.accurate.tolist() == [1, 0, 1]
    logs = out.logs()
    assert logs["negative_z"] == pytest.approx(1 / 3) and logs["reference_loss"] == 1
    assert logs["winner_change"] == pytest.approx(-0.7 / 3) and logs["loser_change"] == pytest.approx(-0.2)
    assert logs["implicit_accuracy"] == pytest.approx(2 / 3) and logs["reward_margin"] == pytest.approx(10 * 0.05 / 3)


def test_dpo_with_a_large_margin_stays_finite():
    out = dpo_loss(torch.tensor([1e4, 0.0]), torch.tensor([0.0, 1e4]), torch.zeros(2), torch.zeros(2), beta=5000.0)
    assert out.loss.isfinite().all() and out.loss[1] == 0
    assert out.gradient_scale.tolist() == [5000.0, 0.0]


def test_the_reference_gets_no_gradient():
    tensors = [torch.rand(3, requires_grad=True) for _ in range(4)]
    dpo_loss(*tensors, beta=1.0).loss.sum().backward()
    assert [x.grad is not None for x in tensors] == [True, True, False, False]


def test_reflow_loss_is_zero_on_the_straight_line_and_weights_follow_their_names():
    x0, x1 = torch.randn(2, 2, 3, 4, generator=torch.Generator().manual_seed(0))
    t = torch.tensor([0.1, 0.5])
    assert not reflow_loss(x1 - x0, x0, x1, t).any()
    wrong = x1 - x0 + 1
    assert reflow_loss(wrong, x0, x1, t).tolist() == pytest.approx([1, 1], rel=1e-5)
    assert reflow_loss(wrong, x0, x1, t, "eq10_printed").tolist() == pytest.approx([100, 4], rel=1e-5)
    assert reflow_loss(wrong, x0, x1, t, "eq10_source").tolist() == pytest.approx([1 / 0.81, 4], rel=1e-5)
    assert reflow_weight(torch.zeros(1), "eq10_printed").item() == pytest.approx(400)  # held at the floor
    with pytest.raises(ValueError, match="choose none"):
        reflow_weight(t, "min_snr")
