"""Clusters that are known: a Gaussian mixture on the unit sphere, and how well labels agree with it."""

from __future__ import annotations

import numpy as np


def mixture(count: int, dim: int, clusters: int, noise: float = 1.0, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Unit vectors float32 [count, dim] around random centres, and which centre each is of.

    `noise` is the length of the noise against that of the centre. At 1, 100,000 vectors of 512 numbers and 1,000
    clusters, faiss' own K-means (20 iterations) has an adjusted Rand index of 0.89.
    """
    rng = np.random.default_rng(seed)
    centres = _unit(rng.standard_normal((clusters, dim), np.float32))
    truth = rng.integers(clusters, size=count)
    x = rng.standard_normal((count, dim), np.float32)
    x *= np.float32(noise / np.sqrt(dim))
    x += centres[truth]
    return _unit(x), truth


def adjusted_rand_index(a: np.ndarray, b: np.ndarray) -> float:
    """Agreement of two clusterings, 1 if they are equal and about 0 by chance (Hubert and Arabie, 1985)."""

    def pairs(counts: np.ndarray) -> float:
        return float((counts * (counts - 1.0) / 2).sum())

    both = np.unique(a.astype(np.int64) * (int(b.max()) + 1) + b, return_counts=True)[1]
    in_a, in_b = (pairs(np.unique(labels, return_counts=True)[1]) for labels in (a, b))
    chance = in_a * in_b / pairs(np.array(len(a)))
    return (pairs(both) - chance) / ((in_a + in_b) / 2 - chance)


def _unit(x: np.ndarray) -> np.ndarray:
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    return x
