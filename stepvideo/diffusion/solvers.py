"""ODE steps, always in fp32."""

from __future__ import annotations

from torch import Tensor


def euler(x: Tensor, v: Tensor, dt: float | Tensor) -> Tensor:
    """x + v·dt in fp32, whatever the dtype of `v` (the step that Eq. 7 sums up)."""
    return x.float() + v.float() * dt
