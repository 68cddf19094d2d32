"""Known-bad videos: what nobody who looks could call the better one.

Shape legend: T frames, H height, W width, 3 = RGB (uint8).
"""

from __future__ import annotations

import numpy as np

NOISE = 70.0  # standard deviation, of 255
STILL = 4.0  # mean difference of frames, of 255, below which their order cannot be seen
SHUFFLED, NOISY = "shuffled", "noisy"
TREATMENTS = (SHUFFLED, NOISY)


def spoil(frames: np.ndarray, seed: int) -> tuple[np.ndarray, str]:
    """uint8 [T, H, W, 3] with its frames in a random order, or, where that could not be seen, with noise.

    Returns:
        The spoiled frames, and the treatment's name.
    """
    generator = np.random.default_rng(seed)
    shuffled = frames[generator.permutation(len(frames))]
    if len(frames) > 2 and np.abs(np.diff(shuffled.astype(np.int16), axis=0)).mean() > STILL:
        return shuffled, SHUFFLED
    noise = generator.normal(0.0, NOISE, frames.shape)
    return np.clip(frames + noise, 0, 255).astype(np.uint8), NOISY
