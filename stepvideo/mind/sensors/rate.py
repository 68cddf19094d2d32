"""Rates from counters."""

from __future__ import annotations


class Rate:
    """Growth a second of a counter. A counter that was set back, or is read for the first time, has none."""

    def __init__(self) -> None:
        self._last: tuple[float, float] | None = None

    def __call__(self, now: float, count: float) -> float | None:
        last, self._last = self._last, (now, count)
        if last is None or now <= last[0] or count < last[1]:
            return None
        return (count - last[1]) / (now - last[0])
