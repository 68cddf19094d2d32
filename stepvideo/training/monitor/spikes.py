"""What is far out of the ordinary, against a window of what came before."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable
from statistics import median

NORMAL = 1.4826  # median absolute deviation of a normal law to its standard deviation
FLOOR = 0.02  # of the median: the least spread that is believed, for curves that hardly vary


class Window:
    """The last values of a curve, and the largest next one that is no spike over them.

    A spike is more than `threshold` robust standard deviations above the median, and above the largest value by more
    than that lies above the median: a curve that alternates between levels, as that of images and videos does, has a
    narrow spread around the commoner one, and no spike. With `log`, of the logarithm: for positive values that vary by
    factors, as gradient norms do.
    """

    def __init__(self, size: int, min_history: int, threshold: float, log: bool = False) -> None:
        self.min_history, self.threshold, self.log = min_history, threshold, log
        self.values: deque[float] = deque(maxlen=size)

    def add(self, value: float) -> None:
        self.values.append(value)

    def limit(self) -> float:
        """Infinite while there is too little to compare with."""
        if len(self.values) < self.min_history:
            return math.inf
        values = [math.log(max(v, 1e-30)) for v in self.values] if self.log else list(self.values)
        middle = median(values)
        floor = FLOOR if self.log else FLOOR * abs(middle)
        spread = max(NORMAL * median(abs(v - middle) for v in values), floor)
        most = max(middle + self.threshold * spread, 2 * max(values) - middle)
        return math.exp(min(most, 700.0)) if self.log else most

    def load(self, values: Iterable[float]) -> None:
        self.values.clear()
        self.values.extend(values)
