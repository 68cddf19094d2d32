"""Counter-based randomness: every draw is a pure function of (seed, purpose, step, sample, …).

No generator state to save: a resumed run, another world size or another batch split draws the same numbers
(docs/decisions/003-counter-based-randomness.md).
"""

from __future__ import annotations

import zlib

import numpy as np


def rng(*key: int | str) -> np.random.Generator:
    """A generator named by its key; strings name purposes, e.g. `rng(seed, "noise", step, sample)`."""
    words = [zlib.crc32(k.encode()) if isinstance(k, str) else int(k) for k in key]
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(words)))


def epoch_order(n: int, seed: int, epoch: int) -> np.ndarray:
    """The order of `n` samples in an epoch: a permutation, so no sample is lost or doubled."""
    return rng(seed, "order", epoch).permutation(n)


class Sampler:
    """Which samples make up a global batch: `batch(step)` walks through epochs without end.

    A batch may span two epochs; every epoch shows every sample once.
    """

    def __init__(self, n: int, batch_size: int, seed: int) -> None:
        if n < 1:
            raise ValueError("there is no sample to draw from")
        self.n, self.batch_size, self.seed = n, batch_size, seed
        self._orders: dict[int, np.ndarray] = {}

    def batch(self, step: int) -> list[int]:
        first = step * self.batch_size
        return [int(self._order((first + i) // self.n)[(first + i) % self.n]) for i in range(self.batch_size)]

    def _order(self, epoch: int) -> np.ndarray:
        if epoch not in self._orders:
            self._orders = {e: o for e, o in self._orders.items() if e == epoch - 1}
            self._orders[epoch] = epoch_order(self.n, self.seed, epoch)
        return self._orders[epoch]
