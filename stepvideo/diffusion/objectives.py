"""Training losses as pure functions: flow matching, Diffusion-DPO on it, 2-rectified flow. All reductions are in
fp32."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


def velocity_loss(v_pred: Tensor, v: Tensor) -> Tensor:
    """Mean squared error of the velocity of every sample (Eq. 6): [b, …] → [b] fp32."""
    return (v_pred.float() - v.float()).square().flatten(1).mean(1)


@dataclass
class DPO:
    """What `dpo_loss` gives, every field [pairs] fp32.

    `loss` carries the gradient; the others are for logs. `z` is the inside term of Eq. 9 (the policy prefers the
    winner more than the reference does where it is positive), `accurate` is 1 there, `reward_w` and `reward_l` are
    the implicit rewards β·log(π/π_ref), `gradient_scale` is −∂loss/∂z: β·(1 − σ(β·z)), the factor of Eq. 9.
    `change_w` and `change_l` are L_θ − L_ref: both rising is how this training fails, with a margin that still grows.
    """

    loss: Tensor
    z: Tensor
    accurate: Tensor
    reward_w: Tensor
    reward_l: Tensor
    gradient_scale: Tensor
    change_w: Tensor
    change_l: Tensor
    reference: Tensor  # mean of the reference's two losses: what the changes are to be compared with

    def logs(self) -> dict[str, float]:
        """Batch means under the names to log."""
        return {
            "dpo_loss": self.loss.detach().mean().item(),
            "implicit_accuracy": self.accurate.mean().item(),
            "z": self.z.mean().item(),
            "reward_winner": self.reward_w.mean().item(),
            "reward_loser": self.reward_l.mean().item(),
            "reward_margin": (self.reward_w - self.reward_l).mean().item(),
            "gradient_scale": self.gradient_scale.mean().item(),
            "negative_z": (self.z < 0).float().mean().item(),
            "winner_change": self.change_w.mean().item(),
            "loser_change": self.change_l.mean().item(),
            "reference_loss": self.reference.mean().item(),
        }


def dpo_loss(
    policy_w: Tensor, policy_l: Tensor, ref_w: Tensor, ref_l: Tensor, beta: float, label_smoothing: float = 0.0
) -> DPO:
    """Diffusion-DPO carried over to flow matching (Eq. 8): −log σ(β·z).

    The log-ratio of a sample is bounded as in Wallace et al. (2024) by the difference of its denoising losses, here
    those of the velocity: log π_θ/π_ref ≈ −½·(L_θ − L_ref), hence z = −½·[(L_θ^w − L_ref^w) − (L_θ^l − L_ref^l)].

    Args:
        policy_w, policy_l, ref_w, ref_l: `velocity_loss` [pairs] of winner and loser under policy and reference, all
            four at the same noise and timestep of their pair (report §4.4). The reference's need no gradient.
        beta: strength; at policy = reference the loss is log 2 and the gradient scale β/2.
        label_smoothing: probability ε that a label is wrong (conservative DPO, Mitchell 2023): the loss is then
            −(1 − ε)·log σ(β·z) − ε·log σ(−β·z), lowest at σ(β·z) = 1 − ε instead of at no finite margin.
    """
    change_w, change_l = policy_w.float() - ref_w.float().detach(), policy_l.float() - ref_l.float().detach()
    log_ratio_w, log_ratio_l = -0.5 * change_w, -0.5 * change_l
    z = log_ratio_w - log_ratio_l
    loss = -F.logsigmoid(beta * z)
    if label_smoothing:
        loss = (1 - label_smoothing) * loss - label_smoothing * F.logsigmoid(-beta * z)
    with torch.no_grad():
        scale = beta * (torch.sigmoid(-beta * z) - label_smoothing)
        logs = ((z > 0).float(), beta * log_ratio_w, beta * log_ratio_l, scale)
        reference = 0.5 * (ref_w.float() + ref_l.float())
    return DPO(loss, z.detach(), *logs, change_w.detach(), change_l.detach(), reference.detach())


def reflow_weight(t: Tensor, kind: str = "none", floor: float = 0.05) -> Tensor:
    """Weight [b] of the 2-rectified-flow loss at t [b] (0 is noise).

    `eq10_printed` is 1/t² as the report's Eq. 10 stands. Its source (Lee et al., 2024) has t = 1 at the noise, so
    that the same formula reads 1/(1 − t)² here: `eq10_source`. Both grow without bound, so t (or 1 − t) is held above
    `floor`. `none` leaves the emphasis to the U-shaped law of t.

    Raises:
        ValueError: on another kind.
    """
    if kind == "none":
        return torch.ones_like(t, dtype=torch.float32)
    if kind == "eq10_printed":
        return t.float().clamp_min(floor) ** -2
    if kind == "eq10_source":
        return (1 - t.float()).clamp_min(floor) ** -2
    raise ValueError(f"reflow weight {kind!r}: choose none, eq10_printed or eq10_source")


def reflow_loss(v_pred: Tensor, x0: Tensor, x1: Tensor, t: Tensor, kind: str = "none") -> Tensor:
    """2-rectified-flow loss of every sample [b] (Eq. 10): x1 is what the teacher's ODE made from the noise x0."""
    return reflow_weight(t, kind) * velocity_loss(v_pred, x1 - x0)
