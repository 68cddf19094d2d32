"""The straight path from noise to data (report §4.3.1): t = 0 is noise X0, t = 1 is data X1."""

from __future__ import annotations

from torch import Tensor


def expand(t: Tensor, like: Tensor) -> Tensor:
    """[b] as [b, 1, …, 1] in the dtype of `like`, to broadcast over samples."""
    return t.to(like.dtype).reshape(-1, *[1] * (like.ndim - 1))


def interpolate(x0: Tensor, x1: Tensor, t: Tensor) -> Tensor:
    """X_t = (1 − t)·X0 + t·X1 for t [b]."""
    t = expand(t, x1)
    return (1 - t) * x0 + t * x1


def velocity(x0: Tensor, x1: Tensor) -> Tensor:
    """V = dX_t/dt = X1 − X0 (Eq. 5)."""
    return x1 - x0


def predict_data(x_t: Tensor, v: Tensor, t: Tensor) -> Tensor:
    """The end point that a velocity at t leads to: X1 = X_t + (1 − t)·V."""
    return x_t + (1 - expand(t, x_t)) * v


def predict_noise(x_t: Tensor, v: Tensor, t: Tensor) -> Tensor:
    """The starting point that a velocity at t came from: X0 = X_t − t·V."""
    return x_t - expand(t, x_t) * v
