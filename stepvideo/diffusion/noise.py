"""Noise that depends on a seed and a number alone: not on the batch, the device or what was drawn before."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor


def generator(seed: int, index: int) -> torch.Generator:
    """An independent stream on the CPU for every (seed, index); both may be negative."""
    words = [seed % 2**64, index % 2**64]
    if words[0] >= 2**32:  # is read as two words; the mark tells (2³², 0) from (0, 1)
        words.append(1)
    state = np.random.SeedSequence(words).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(state >> np.uint64(1)))


def noise(shape: Sequence[int], seed: int, indices: Sequence[int]) -> Tensor:
    """Standard normal [len(indices), *shape], fp32 on the CPU."""
    return torch.stack([torch.randn(*shape, generator=generator(seed, i)) for i in indices])
