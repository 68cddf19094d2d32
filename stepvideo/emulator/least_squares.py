"""Levenberg-Marquardt within bounds, for fits of few constants; numpy only."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray

Vector = NDArray[np.float64]


def least_squares(
    residuals: Callable[[Vector], Vector], start: ArrayLike, low: ArrayLike, high: ArrayLike, rounds: int = 100
) -> Vector:
    """The x within [low, high] near `start` with the least sum of squared residuals.

    Constants are scaled by their ranges. A constant at its bound rests while the residuals push it outwards.
    """
    low, high = (np.asarray(v, dtype=float) for v in (low, high))
    width, damping = high - low, 1e-3
    x = np.clip(np.asarray(start, dtype=float), low, high)
    r = residuals(x)
    for _ in range(rounds):
        jacobian = _jacobian(residuals, x, r, low, high) * width
        slope = jacobian.T @ r
        free = ~(((x <= low) & (slope > 0)) | ((x >= high) & (slope < 0)))
        if not free.any() or np.abs(slope[free]).max() < 1e-10:
            break
        curve = jacobian.T @ jacobian
        while damping < 1e12:
            move = np.zeros_like(x)
            damped = curve + damping * np.diag(np.diag(curve) + 1e-12)
            move[free] = np.linalg.solve(damped[np.ix_(free, free)], -slope[free])
            there = np.clip(x + move * width, low, high)
            new = residuals(there)
            if new @ new < r @ r:
                break
            damping *= 10
        else:
            break
        gain = (r @ r - new @ new) / (r @ r)
        x, r, damping = there, new, max(damping / 10, 1e-9)
        if gain < 1e-12:
            break
    return x


def _jacobian(residuals: Callable[[Vector], Vector], x: Vector, r: Vector, low: Vector, high: Vector) -> NDArray:
    columns = []
    for i in range(len(x)):
        step = 1e-6 * (high[i] - low[i])
        if x[i] + step > high[i]:
            step = -step
        moved = x.copy()
        moved[i] += step
        columns.append((residuals(moved) - r) / step)
    return np.stack(columns, axis=1)
