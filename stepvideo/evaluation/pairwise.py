"""Strengths of three or more models from votes on pairs: Bradley–Terry, and Rao–Kupper where there are ties.

Rao & Kupper (1967): P(i over j) = π_i / (π_i + η π_j), with η ≥ 1 the width of ties; θ = log π, τ = log η. For η = 1
this is Bradley–Terry, in which a tie counts as half a win of each, as in the score (W + T/2) / n.

Legend: K models, B fits at once, m prompts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from scipy.sparse.csgraph import connected_components
from scipy.special import expit

from stepvideo.evaluation.jackknife import Floats, by_cluster, interval
from stepvideo.evaluation.stats import Estimate, wilson
from stepvideo.evaluation.votes import Vote

RIDGE = 0.01
"""Penalty RIDGE / 2 · Σ θ²: keeps a model that never lost at a finite strength, and shifts no other visibly."""

MODELS = ("rao-kupper", "bradley-terry")
_NARROWEST, _STEPS, _STRIDE = 1e-6, 60, 1.0


class Unfit(ValueError):
    """Why a set of votes cannot be ranked by a pairwise model."""


@dataclass(frozen=True)
class Ranking:
    """Strengths of models, best first.

    Attributes:
        strength: chance of a decided vote against the average model, with its interval over prompts; 0.5 is average.
        theta: log strength, their sum 0.
        against: [K, K] chance that the row's model wins a decided vote against the column's, in the order of `names`.
        ties: share of ties between equals that the model gives, 0 for Bradley–Terry; where no vote is a tie its upper
            bound is Wilson's, with prompts as trials.
    """

    model: str
    names: list[str]
    strength: list[Estimate]
    theta: list[Estimate]
    against: list[list[Estimate]]
    ties: Estimate

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def rank(votes: Sequence[Vote], model: str = "rao-kupper", ridge: float = RIDGE) -> Ranking:
    """Strengths of the models in votes on pairs.

    Raises:
        Unfit: fewer than three models, or models that no chain of comparisons connects.
        ValueError: another model, or a ridge that is not positive.
    """
    if model not in MODELS or not ridge > 0:
        raise ValueError(f"model={model!r}, ridge={ridge}: give one of {', '.join(MODELS)} and a positive ridge")
    names = sorted({n for v in votes for n in (v.model_a, v.model_b)})
    k = len(names)
    if k < 3:
        raise Unfit(f"{k} models: their score says all; a pairwise model orders three or more")
    wins = np.zeros((len(votes), 2, k, k))  # [n, decided | tied, winner, loser]; a tie is in both halves
    for row, v in zip(wins, votes):
        a, b = names.index(v.model_a), names.index(v.model_b)
        if v.outcome:
            row[0][(a, b) if v.outcome == 1 else (b, a)] = 1
        else:
            row[1][a, b] = row[1][b, a] = 1
    _check_connected(wins.sum((0, 1)), names)
    sums = by_cluster(wins.reshape(len(votes), -1), [v.prompt_id for v in votes])
    found = interval(sums, lambda s: _with_gaps(fit(s.reshape(*s.shape[:-1], 2, k, k), model, ridge), k))
    order = np.argsort(-found.value[:k], kind="stable").tolist()

    def estimate(i: int, scale: Callable[[Any], Any] = float) -> Estimate:
        value, low, high = (float(scale(x[i])) for x in (found.value, found.low, found.high))
        return Estimate(value, low, high, len(votes))

    ties = estimate(k, lambda tau: max(0.0, 1 - 2 * expit(-tau)))
    if not ties.value:
        high = wilson(0, found.prompts).high if model == "rao-kupper" else 0.0
        ties = replace(ties, high=high)
    return Ranking(
        model,
        [names[i] for i in order],
        [estimate(i, expit) for i in order],
        [estimate(i) for i in order],
        [[estimate(k + 1 + i * k + j, expit) for j in order] for i in order],
        ties,
    )


def _with_gaps(fitted: Floats, k: int) -> Floats:
    """θ and τ [..., K + 1], and behind them θ_i − θ_j [..., K · K]."""
    theta = fitted[..., :k]
    gaps = theta[..., :, None] - theta[..., None, :]
    return np.concatenate([fitted, gaps.reshape(*fitted.shape[:-1], k * k)], -1)


def fit(counts: Floats, model: str = "rao-kupper", ridge: float = RIDGE) -> Floats:
    """θ of the K models and τ [..., K + 1] by Newton's method, for many tables of counts at once.

    Args:
        counts: [..., 2, K, K]: wins of the row over the column; ties, symmetric.
    """
    k = counts.shape[-1]
    wins, ties = (counts[..., i, :, :].reshape(-1, k, k) for i in (0, 1))
    if model == "bradley-terry":
        wins, ties = wins + ties / 2, np.zeros_like(ties)
    tied = ties.sum((1, 2)) / 2  # [B]
    won = wins + ties  # P(tie) = (η² − 1) P(i over j) P(j over i): a tie counts as a win of both
    theta, tau = np.zeros((len(won), k)), np.where(tied > 0, 0.3, 0.0)
    eye = np.eye(k)
    for _ in range(_STEPS):
        p = expit(theta[:, :, None] - theta[:, None, :] - tau[:, None, None])
        g, h = won * (1 - p), won * p * (1 - p)  # first and minus second derivative in the argument of expit
        slope = np.concatenate([g.sum(2) - g.sum(1) - ridge * theta, -g.sum((1, 2))[:, None]], 1)
        curve = np.zeros((len(won), k + 1, k + 1))
        curve[:, :k, :k] = (h.sum(2) + h.sum(1) + ridge)[:, :, None] * eye - h - h.transpose(0, 2, 1)
        curve[:, :k, k] = curve[:, k, :k] = h.sum(1) - h.sum(2)
        curve[:, k, k] = h.sum((1, 2))
        width = np.expm1(2 * np.maximum(tau, _NARROWEST))
        slope[:, k] += tied * 2 * (width + 1) / width
        curve[:, k, k] += tied * 4 * (width + 1) / width**2
        fixed = tied == 0  # no tie: the likelihood is highest at τ = 0, the edge
        slope[fixed, k], curve[fixed, :k, k], curve[fixed, k, :k], curve[fixed, k, k] = 0, 0, 0, 1
        step = np.linalg.solve(curve, slope[..., None])[..., 0]
        step /= np.maximum(np.abs(step).max(1, keepdims=True) / _STRIDE, 1)
        theta += step[:, :k]
        tau = np.where(fixed, 0.0, np.maximum(tau + step[:, k], np.maximum(tau / 4, _NARROWEST)))
        if np.abs(step).max() < 1e-10:
            break
    return np.concatenate([theta, tau[:, None]], 1).reshape(*counts.shape[:-3], k + 1)


def _check_connected(compared: Floats, names: Sequence[str]) -> None:
    parts, member = connected_components(compared + compared.T, directed=False)
    if parts > 1:
        groups = [", ".join(n for n, g in zip(names, member) if g == i) for i in range(parts)]
        raise Unfit(f"no comparison connects {' with '.join(f'({g})' for g in groups)}; compare one model of each")
