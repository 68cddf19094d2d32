"""Memory that is used again: a fresh 64 MiB costs more, in page faults, than what is done with it."""

from __future__ import annotations

import weakref
from collections import deque

import numpy as np
import torch
from torch import Tensor

WASTE = 1.25  # a lease may have up to so many times what it asked for, so that items of about one size share memory


class Pool:
    """Leases of memory that come back by themselves when the last tensor or view on them is dropped.

    Of what is not leased it keeps as much as fits below `capacity_bytes`, leases counted. `take` belongs to one thread;
    leases may end in any.
    """

    def __init__(self, capacity_bytes: int, pin: bool = False) -> None:
        self._capacity, self._pin = capacity_bytes, pin
        self._free: list[Tensor] = []
        self._returned: deque[Tensor] = deque()  # by garbage collection, which may run inside any of our methods
        self.allocated = 0  # bytes, leased and free
        self.allocations = 0

    def take(self, nbytes: int) -> np.ndarray:
        """A lease: `nbytes` of uint8. Make `memoryview`s and `torch.from_numpy` of it, no numpy views: numpy shortens
        the chain from a view to its owner, past this object, whose end is the lease's end."""
        if nbytes == 0:
            return np.empty(0, np.uint8)
        whole = self._find(nbytes)
        lease = whole.numpy()[:nbytes]
        weakref.finalize(lease, self._returned.append, whole).atexit = False
        return lease

    def _find(self, size: int) -> Tensor:
        while self._returned:
            self._free.append(self._returned.popleft())
        fitting = [t for t in self._free if size <= t.numel() <= WASTE * size]
        if fitting:
            best = min(fitting, key=Tensor.numel)
            self._free = [t for t in self._free if t is not best]
            return best
        while self._free and self.allocated + size > self._capacity:
            self.allocated -= self._free.pop(0).numel()
        self.allocated, self.allocations = self.allocated + size, self.allocations + 1
        return torch.empty(size, dtype=torch.uint8, pin_memory=self._pin)
