"""Spherical K-means that is seeded bottom-up.

A random sample with a few vectors a cluster is joined by Ward's criterion until K groups are left, and their centres
are what Lloyd's iterations start from. Random seeds, and those of k-means++, put two into some clusters and none into
others, which Lloyd's iterations cannot mend; bottom-up, only a cluster without a vector in the sample is missed.

Legend: N vectors, D numbers of each, K clusters, M vectors of a sample. All vectors are of length 1, float32.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

BLOCK = 1024  # rows of a product
MOST = 8192  # vectors that are joined bottom-up, which takes about 1 GB


def kmeans(x_ND: np.ndarray, k: int, seed: int, iterations: int = 5, seeds: int = 8, sample: int = 256) -> np.ndarray:
    """Centres [K, D] of length 1, by cosine.

    Args:
        seeds: vectors a cluster that the seeding joins, as far as `MOST` allows.
        sample: vectors a cluster that are looked at; with more, a random part of them.

    Raises:
        ValueError: fewer vectors than clusters.
    """
    import faiss

    if not 0 < k <= len(x_ND):
        raise ValueError(f"{k} clusters of {len(x_ND)} vectors; give 1 to {len(x_ND)}")
    rng = np.random.default_rng(seed)
    x_ND = _some(x_ND, sample * k, rng)
    if k == 1:
        return centres(x_ND, np.zeros(len(x_ND), int), 1)
    found = ward_centres(_some(x_ND, max(min(seeds * k, MOST), k), rng), k)
    with _one_thread():
        means = faiss.Kmeans(
            x_ND.shape[1], k, niter=iterations, spherical=True, seed=seed,
            min_points_per_centroid=1, max_points_per_centroid=sample,
        )  # fmt: skip
        means.train(x_ND, init_centroids=found)
    return means.centroids


def assign(x_ND: np.ndarray, centres_KD: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The nearest centre of each vector, int64 [N], and the cosine of the two, float32 [N]."""
    import faiss

    with _one_thread():
        index = faiss.IndexFlatIP(centres_KD.shape[1])
        index.add(centres_KD)
        sims, labels = index.search(x_ND, 1)
    return labels[:, 0], sims[:, 0]


def ward_centres(x_MD: np.ndarray, k: int) -> np.ndarray:
    """Centres [K, D] of the groups that Ward's criterion leaves when it joins the M vectors to K."""
    from scipy.cluster.hierarchy import cut_tree, linkage

    if len(x_MD) == k:
        return x_MD.copy()
    return centres(x_MD, cut_tree(linkage(_distances(x_MD), "ward"), n_clusters=k)[:, 0], k)


def centres(x_ND: np.ndarray, labels: np.ndarray, k: int) -> np.ndarray:
    """Means of K groups, none empty, scaled to length 1; those of opposite vectors are zero."""
    order = np.argsort(labels, kind="stable")
    starts = np.searchsorted(labels[order], np.arange(k))
    sums = np.add.reduceat(x_ND[order], starts, axis=0)
    return sums / np.maximum(np.linalg.norm(sums, axis=1, keepdims=True), 1e-12)


def _distances(x_MD: np.ndarray) -> np.ndarray:
    """Euclidean, of all pairs, row after row (scipy's condensed form), float64."""
    m = len(x_MD)
    found = np.empty(m * (m - 1) // 2)
    at = 0
    for first in range(0, m, BLOCK):
        dots = x_MD[first : first + BLOCK] @ x_MD[first:].T
        for i, row in enumerate(dots):
            found[at : at + m - first - i - 1] = row[i + 1 :]
            at += m - first - i - 1
    np.subtract(1, found, out=found)
    found *= 2
    np.maximum(found, 0, out=found)
    return np.sqrt(found, out=found)


def _some(x_ND: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    if len(x_ND) <= count:
        return x_ND
    return x_ND[np.sort(rng.choice(len(x_ND), count, replace=False))]


@contextmanager
def _one_thread() -> Iterator[None]:
    """The same sums in the same order, whatever the machine."""
    import faiss

    threads = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(threads)
