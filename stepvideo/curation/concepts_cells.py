"""Clusters of any number of vectors: coarse cells first, then the clusters of each cell, in bounded memory.

Legend: N vectors, D numbers of each, K clusters.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from stepvideo.curation.concepts_config import ConceptsConfig
from stepvideo.curation.concepts_kmeans import assign, kmeans

BLOCK = 65536  # vectors that are compared with centres at once
PAIRS = 2**26  # pairs of vectors that are compared at once


@dataclass(frozen=True)
class Clusters:
    """Labels int64 [N], cosines to the own centre float32 [N], indices of the kept vector that each repeats (-1: none)
    int64 [N], and centres float32 [K, D]; clusters are numbered by size, the largest first, and none is empty."""

    labels: np.ndarray
    sims: np.ndarray
    duplicate_of: np.ndarray
    centres: np.ndarray


def cluster(
    x_ND: np.ndarray, k: int, config: ConceptsConfig, work: Path, done: Callable[[int, int], None] = lambda *_: None
) -> Clusters:
    """About `k` clusters of vectors of length 1, float16 and possibly on disk.

    Args:
        work: finished cells are kept there, and taken from there.
        done: told after every cell how many of how many there are; may raise, to stop.
    """
    cells = _cells(x_ND, -(-k // config.cell), config, work)
    labels, duplicate_of = np.empty(len(x_ND), np.int64), np.full(len(x_ND), -1)
    sims, centres, first = np.empty(len(x_ND), np.float32), [], 0
    numbers = apportion([len(c) for c in cells], k)
    for i, (members, own) in enumerate(zip(cells, numbers)):
        part = _kept(
            work / f"cell-{i:05d}.npz", lambda m=members, n=own, i=i: _cell(x_ND, m, n, config.seed + i, config)
        )
        labels[members], sims[members] = part["labels"] + first, part["sims"]
        repeats = part["duplicate_of"] >= 0
        duplicate_of[members[repeats]] = members[part["duplicate_of"][repeats]]
        centres.append(part["centres"])
        first += len(part["centres"])
        done(i + 1, len(cells))
    return _by_size(Clusters(labels, sims, duplicate_of, np.concatenate(centres)))


def apportion(sizes: list[int], k: int) -> list[int]:
    """K clusters dealt to cells by size, by largest remainder; each gets at least one, at most as many as vectors."""
    room = np.array(sizes) - 1
    quota = room * ((k - len(sizes)) / max(room.sum(), 1))
    given = np.floor(quota).astype(int)
    given[np.argsort(given - quota, kind="stable")[: k - len(sizes) - int(given.sum())]] += 1
    return (given + 1).tolist()


def duplicates(x_ND: np.ndarray, threshold: float, pairs: int = PAIRS) -> np.ndarray:
    """For each vector the index of the first kept one that it repeats, cosine ≥ `threshold`; -1 for those kept."""
    found = np.full(len(x_ND), -1)
    block = max(pairs // len(x_ND), 1)
    for first in range(0, len(x_ND), block):
        same = x_ND[first : first + block] @ x_ND[first:].T >= threshold
        for i in np.flatnonzero(same.sum(1) > 1):
            if found[first + i] < 0:
                later = first + i + 1 + np.flatnonzero(same[i, i + 1 :])
                found[later[found[later] < 0]] = first + i
    return found


def _cells(x_ND: np.ndarray, count: int, config: ConceptsConfig, work: Path) -> list[np.ndarray]:
    """The vectors of each cell, by index; one cell holds all where one K-means is enough."""
    if count == 1:
        return [np.arange(len(x_ND))]

    def coarse() -> dict[str, np.ndarray]:
        rng = np.random.default_rng(config.seed)
        chosen = np.sort(rng.choice(len(x_ND), min(len(x_ND), count * config.sample), replace=False))
        return {"centres": _kmeans(x_ND[chosen].astype(np.float32), count, config.seed, config)}

    centres = _kept(work / "cells.npz", coarse)["centres"]
    labels = np.concatenate([assign(x, centres)[0] for x in _blocks(x_ND, np.arange(len(x_ND)))])
    return [members for i in range(count) if len(members := np.flatnonzero(labels == i))]


def _cell(x_ND: np.ndarray, members: np.ndarray, k: int, seed: int, config: ConceptsConfig) -> dict[str, np.ndarray]:
    few = members
    if len(members) > (most := k * config.sample):
        few = np.sort(np.random.default_rng(seed).choice(members, most, replace=False))
    centres = _kmeans(x_ND[few].astype(np.float32), k, seed, config)
    parts = [assign(x, centres) for x in _blocks(x_ND, members)]
    labels, sims = (np.concatenate(p) for p in zip(*parts))
    duplicate_of = np.full(len(members), -1)
    for own in np.split(order := np.argsort(labels, kind="stable"), np.flatnonzero(np.diff(labels[order])) + 1):
        repeated = duplicates(x_ND[members[own]].astype(np.float32), config.duplicate_sim)
        duplicate_of[own[repeated >= 0]] = own[repeated[repeated >= 0]]
    return {"labels": labels, "sims": sims, "duplicate_of": duplicate_of, "centres": centres}


def _kmeans(x_ND: np.ndarray, k: int, seed: int, config: ConceptsConfig) -> np.ndarray:
    return kmeans(x_ND, k, seed, config.iterations, config.seeds, config.sample)


def _blocks(x_ND: np.ndarray, members: np.ndarray) -> Iterator[np.ndarray]:
    for first in range(0, len(members), BLOCK):
        yield x_ND[members[first : first + BLOCK]].astype(np.float32)


def _by_size(found: Clusters) -> Clusters:
    counts = np.bincount(found.labels, minlength=len(found.centres))
    order = np.argsort(-counts, kind="stable")[: np.count_nonzero(counts)]
    number = np.full(len(counts), -1)
    number[order] = np.arange(len(order))
    return Clusters(number[found.labels], found.sims, found.duplicate_of, found.centres[order])


def _kept(path: Path, make: Callable[[], dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """What an earlier attempt made, or now."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(tmp := path.with_suffix(".tmp"), "wb") as f:
            np.savez(f, **make())  # type: ignore[arg-type]
        os.replace(tmp, path)
    with np.load(path) as saved:
        return dict(saved)
