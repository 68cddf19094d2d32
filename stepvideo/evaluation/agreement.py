"""How far annotators agree: Krippendorff's α, Fleiss' κ, raw agreement; and whether a side of the screen wins.

All of them are functions of sums over prompts, so that each has the interval of `jackknife` over prompts. α and κ are
intervals on Fisher's scale (artanh), with half a prompt of chance agreement and half one of perfect agreement added.

Legend: u units (items judged by several annotators), V values, m prompts.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from functools import partial

import numpy as np
from numpy.typing import ArrayLike

from stepvideo.evaluation.jackknife import WEIGHT, Floats, Statistic, by_cluster, interval, mean_interval
from stepvideo.evaluation.stats import Estimate, sign_flip
from stepvideo.evaluation.votes import Vote

LEVELS = ("nominal", "ordinal", "interval")


def value_counts(answers: Mapping[Hashable, Sequence[float]]) -> tuple[list[Hashable], Floats, Floats]:
    """From unit → its answers: units, the values that occur [V] in order, how often each unit got each [u, V]."""
    domain = np.unique(np.array([x for xs in answers.values() for x in xs], float))
    counts = np.array([[np.count_nonzero(np.asarray(xs) == v) for v in domain] for xs in answers.values()], float)
    return list(answers), domain, counts.reshape(len(answers), len(domain))


def krippendorff(
    counts: ArrayLike, domain: ArrayLike, level: str, clusters: Sequence[Hashable] | None = None
) -> Estimate | None:
    """Krippendorff's α of counts [u, V]; units with one answer do not count. n is the number of answers that do.

    Args:
        domain: the values [V] in ascending order.
        level: nominal, ordinal or interval.
        clusters: prompt of each unit; None: every unit its own.

    Returns None where α is undefined: no unit with two answers, or one value throughout.

    Raises:
        ValueError: another level.
    """
    if level not in LEVELS:
        raise ValueError(f"level={level!r}: give one of {', '.join(LEVELS)}")
    counts, clusters = _pairable(counts, clusters)
    values, size = np.asarray(domain, float), counts.sum(1)
    if not len(counts) or (counts.sum(0) > 0).sum() < 2:
        return None
    v = len(values)
    pairs = counts[:, :, None] * counts[:, None, :] - counts[:, :, None] * np.eye(v)
    coincidences = pairs / (size - 1)[:, None, None]  # [u, V, V]
    sums = by_cluster(coincidences.reshape(len(counts), -1), clusters)
    margin = counts.sum(0)
    total = margin.sum()
    chance = np.outer(margin, margin) - np.diag(margin)
    share = WEIGHT * total / len(sums)
    pseudo = np.stack([chance / chance.sum(), np.diag(margin / total)]).reshape(2, -1) * share
    return _on_fishers_scale(sums, partial(_alpha, values=values, level=level), pseudo, int(total))


def _alpha(sums: Floats, values: Floats, level: str) -> Floats:
    """α [..., 1] of flattened coincidence matrices [..., V·V] (Krippendorff 2011)."""
    v = len(values)
    observed = sums.reshape(*sums.shape[:-1], v, v)
    margin = observed.sum(-1)
    if level == "nominal":
        distance: Floats = 1 - np.eye(v)
    elif level == "interval":
        distance = (values[:, None] - values) ** 2
    else:
        rank = np.cumsum(margin, -1) - margin / 2
        distance = (rank[..., :, None] - rank[..., None, :]) ** 2
    expected = margin[..., :, None] * margin[..., None, :] - margin[..., None] * np.eye(v)
    expected /= (margin.sum(-1) - 1)[..., None, None]
    return (1 - (observed * distance).sum((-1, -2)) / (expected * distance).sum((-1, -2)))[..., None]


def fleiss(counts: ArrayLike, clusters: Sequence[Hashable] | None = None) -> Estimate | None:
    """Fleiss' κ of counts [u, V]; where units have different numbers of answers, each unit weighs the same.

    n is the number of units. Returns None where κ is undefined: no unit with two answers, or one value throughout.
    """
    counts, clusters = _pairable(counts, clusters)
    if not len(counts) or (counts.sum(0) > 0).sum() < 2:
        return None
    features = np.concatenate([_raw(counts)[:, None], np.ones((len(counts), 1)), counts], 1)
    sums = by_cluster(features, clusters)
    units, share = WEIGHT * len(counts) / len(sums), counts.sum(0) / counts.sum()
    answers = share * WEIGHT * counts.sum() / len(sums)
    pseudo = [[units * (share**2).sum(), units, *answers], [units, units, *answers]]

    def kappa(s: Floats) -> Floats:
        observed, margin = s[..., 0] / s[..., 1], s[..., 2:] / s[..., 2:].sum(-1, keepdims=True)
        expected = (margin**2).sum(-1)
        return ((observed - expected) / (1 - expected))[..., None]

    return _on_fishers_scale(sums, kappa, pseudo, len(counts))


def raw_agreement(counts: ArrayLike, clusters: Sequence[Hashable] | None = None) -> Estimate | None:
    """Share of pairs of annotators who gave a unit the same answer, mean over units; None without a pair."""
    counts, clusters = _pairable(counts, clusters)
    if not len(counts):
        return None
    return Estimate(*mean_interval(_raw(counts), clusters, (0, 1), bounds=(0, 1)), len(counts))


def left_share(votes: Sequence[Vote]) -> tuple[Estimate, float] | None:
    """Share of decided votes that went to the left side, and the prompt-level sign-flip p-value of one half.

    None where no decided vote says which side was left.
    """
    decided = [v for v in votes if v.outcome and v.shown_left]
    if not decided:
        return None
    left = [1.0 if (v.outcome == 1) == (v.shown_left == "a") else 0.0 for v in decided]
    prompts = [v.prompt_id for v in decided]
    share = Estimate(*mean_interval(left, prompts, (0, 1), bounds=(0, 1)), len(left))
    return share, sign_flip([2 * x - 1 for x in left], prompts)


def _pairable(counts: ArrayLike, clusters: Sequence[Hashable] | None) -> tuple[Floats, list[Hashable]]:
    x = np.asarray(counts, float)
    if x.ndim != 2 or (clusters is not None and len(clusters) != len(x)):
        raise ValueError(f"counts of shape {x.shape}: give units by values, and one cluster a unit")
    kept = np.flatnonzero(x.sum(1) >= 2)
    return x[kept], [i if clusters is None else clusters[i] for i in kept.tolist()]


def _raw(counts: Floats) -> Floats:
    n = counts.sum(1)
    return (counts * (counts - 1)).sum(1) / (n * (n - 1))


def _on_fishers_scale(sums: Floats, statistic: Statistic, pseudo: ArrayLike, n: int) -> Estimate:
    found = interval(sums, statistic, pseudo, fisher=True)
    return Estimate(float(found.value[0]), float(found.low[0]), float(found.high[0]), n)
