"""Counter-based randomness: every draw is a pure function of (seed, purpose, step, sample, …).

No generator state to save: a resumed run, another world size or another batch split draws the same numbers
(docs/decisions/003-counter-based-randomness.md).
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import numpy as np


def rng(*key: int | str) -> np.random.Generator:
    """A generator named by its key; strings name purposes, e.g. `rng(seed, "noise", step, sample)`."""
    words = [zlib.crc32(k.encode()) if isinstance(k, str) else int(k) for k in key]
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(words)))


class Epochs:
    """Numbers 0 … n-1 without end: epoch after epoch, each of them once an epoch, in an order of that epoch's own."""

    def __init__(self, n: int, *key: int | str) -> None:
        self.n, self.key = n, key
        self._orders: dict[int, np.ndarray] = {}

    def order(self, epoch: int) -> np.ndarray:
        if epoch not in self._orders:
            self._orders = {e: o for e, o in self._orders.items() if e == epoch - 1}
            self._orders[epoch] = self._draw(rng(*self.key, epoch))
        return self._orders[epoch]

    def rows(self, first: int, last: int) -> list[int]:
        """Numbers `first` … `last` - 1 of the endless row."""
        return [int(self.order(i // self.n)[i % self.n]) for i in range(first, last)]

    def _draw(self, draw: np.random.Generator) -> np.ndarray:
        return draw.permutation(self.n)


class SpreadEpochs(Epochs):
    """Epochs of several kinds, `counts` numbers of each, in which every kind is spread evenly over the epoch.

    The epoch is cut into as many equal parts as a kind has numbers; each of these comes somewhere in a part of its own.
    """

    def __init__(self, counts: Sequence[int], *key: int | str) -> None:
        super().__init__(sum(counts), *key)
        self.counts = counts

    def _draw(self, draw: np.random.Generator) -> np.ndarray:
        places = [(draw.permutation(n) + draw.random(n)) / n for n in self.counts]
        return np.argsort(np.concatenate(places), kind="stable")


class Sampler(Epochs):
    """Which samples make up a global batch: `batch(step)` walks through epochs without end.

    A batch may span two epochs; every epoch shows every sample once.
    """

    def __init__(self, n: int, batch_size: int, seed: int) -> None:
        if n < 1:
            raise ValueError("there is no sample to draw from")
        super().__init__(n, seed, "order")
        self.batch_size = batch_size

    def batch(self, step: int) -> list[int]:
        return self.rows(step * self.batch_size, (step + 1) * self.batch_size)
