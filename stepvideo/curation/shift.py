"""How far a column, a set of concepts or the words of captions moved from one set of clips to another."""

from __future__ import annotations

from typing import Any

import numpy as np

BINS = 10  # of the population stability index: tenths of the first set
DISTINCT = 20  # values up to which a column is taken as categories
DRAWN = 24  # bins of a plot
SURE = 3.0  # standard errors that a share must move by


def psi(a: np.ndarray, b: np.ndarray) -> tuple[float, float]:
    """The population stability index of two shares, and what chance alone is expected to make of it.

    sum (p_b - p_a) ln(p_b / p_a), with half a clip added to every bin so that it stays finite. Two samples of one law
    give (bins - 1)(1/n_a + 1/n_b) on average, as it is near a chi-squared statistic.

    Args:
        a, b: clips in each bin, [bins].
    """
    used = (a + b) > 0
    a, b = a[used].astype(float), b[used].astype(float)
    if len(a) < 2 or not a.sum() or not b.sum():
        return 0.0, 0.0
    p, q = (a + 0.5) / (a + 0.5).sum(), (b + 0.5) / (b + 0.5).sum()
    return float(((q - p) * np.log(q / p)).sum()), float((len(a) - 1) * (1 / a.sum() + 1 / b.sum()))


def binned(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How many known values lie in each tenth of `a`; for a column of few values, how often each occurs. [bins]."""
    values = np.unique(np.concatenate([a, b]))
    if len(values) <= DISTINCT:
        return tuple(np.bincount(np.searchsorted(values, x), minlength=len(values)) for x in (a, b))  # type: ignore
    edges = np.unique(np.quantile(a, np.linspace(0, 1, BINS + 1)[1:-1]))
    return tuple(np.bincount(np.searchsorted(edges, x, "right"), minlength=len(edges) + 1) for x in (a, b))  # type: ignore


def ks(a: np.ndarray, b: np.ndarray) -> float:
    """The Kolmogorov-Smirnov distance: the largest difference of the two distribution functions, 0 to 1."""
    at = np.sort(np.concatenate([a, b]))
    f, g = (np.searchsorted(np.sort(x), at, "right") / len(x) for x in (a, b))
    return float(np.abs(f - g).max())


def column(name: str, a: np.ndarray, b: np.ndarray, threshold: float) -> dict[str, Any] | None:
    """How a column moved; None where one of the sets has no value of it.

    Args:
        a, b: float64 [N], NaN where unknown.
        threshold: of the index, less what chance makes of it, from which on the column has drifted.

    Returns:
        tag, mean_a, mean_b, shift (of the mean, in standard deviations of `a`), psi, chance, ks, known_a, known_b
        (shares of clips with a value), drifted, and for a plot edges [n + 1], share_a, share_b [n].
    """
    known_a, known_b = a[np.isfinite(a)], b[np.isfinite(b)]
    if not len(known_a) or not len(known_b):
        return None
    index, chance = psi(*binned(known_a, known_b))
    spread = float(known_a.std())
    move = float(known_b.mean() - known_a.mean())
    low, high = np.quantile(np.concatenate([known_a, known_b]), [0.005, 0.995])
    edges = np.linspace(low, high if high > low else low + 1, DRAWN + 1)
    drawn = [np.histogram(np.clip(x, edges[0], edges[-1]), edges)[0] / len(x) for x in (known_a, known_b)]
    return {
        "tag": name,
        "mean_a": float(known_a.mean()),
        "mean_b": float(known_b.mean()),
        "shift": move / spread if spread > 0 else 0.0,
        "psi": index,
        "chance": chance,
        "ks": ks(known_a, known_b),
        "known_a": len(known_a) / len(a),
        "known_b": len(known_b) / len(b),
        "drifted": index - chance >= threshold,
        "edges": [float(e) for e in edges],
        "share_a": [float(s) for s in drawn[0]],
        "share_b": [float(s) for s in drawn[1]],
    }


def matched(centres_a: np.ndarray, centres_b: np.ndarray, block: int = 2048) -> tuple[np.ndarray, np.ndarray]:
    """For each centre of `b`, [K_b, D], the nearest of `a`, [K_a, D]: index int64 [K_b] and cosine float32 [K_b]."""
    unit = [
        (c / np.maximum(np.linalg.norm(c, axis=1, keepdims=True), 1e-12)).astype(np.float32)
        for c in (centres_a, centres_b)
    ]
    at, sim = np.empty(len(centres_b), np.int64), np.empty(len(centres_b), np.float32)
    for i in range(0, len(centres_b), block):
        near = unit[1][i : i + block] @ unit[0].T
        at[i : i + block], sim[i : i + block] = near.argmax(1), near.max(1)
    return at, sim


def z_score(a: np.ndarray, n_a: int, b: np.ndarray, n_b: int) -> np.ndarray:
    """Standard errors by which shares b / n_b differ from a / n_a (two proportions, pooled); float64 like `a`."""
    pooled = (a + b) / max(n_a + n_b, 1)
    error = np.sqrt(np.maximum(pooled * (1 - pooled) * (1 / max(n_a, 1) + 1 / max(n_b, 1)), 1e-12))
    return (b / max(n_b, 1) - a / max(n_a, 1)) / error
