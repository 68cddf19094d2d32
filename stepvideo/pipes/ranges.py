"""Sets of numbers as runs: what was acknowledged, in a few bytes whatever the count."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence

from stepvideo.pipes.errors import WireError


class Ranges:
    """Natural numbers as sorted half-open runs that do not touch."""

    def __init__(self, runs: Iterable[Sequence[int]] = ()) -> None:
        self._starts: list[int] = []
        self._stops: list[int] = []
        for start, stop in runs:
            self.add(start, stop)

    def add(self, start: int, stop: int | None = None) -> None:
        """One number, or all from `start` to before `stop`."""
        stop = start + 1 if stop is None else stop
        if stop <= start:
            return
        low = bisect_left(self._stops, start)  # the first run that touches or follows
        high = bisect_right(self._starts, stop)  # one after the last that touches or precedes
        if low < high:
            start, stop = min(start, self._starts[low]), max(stop, self._stops[high - 1])
        self._starts[low:high], self._stops[low:high] = [start], [stop]

    def __contains__(self, n: int) -> bool:
        i = bisect_right(self._starts, n) - 1
        return i >= 0 and n < self._stops[i]

    def __len__(self) -> int:
        return sum(self._stops) - sum(self._starts)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Ranges) and self.runs() == other.runs()

    __hash__ = None  # type: ignore[assignment]

    def update(self, other: Ranges) -> None:
        for start, stop in other.runs():
            self.add(start, stop)

    def runs(self) -> list[list[int]]:
        """[[start, stop], …], as JSON keeps it."""
        return [[a, b] for a, b in zip(self._starts, self._stops)]

    @classmethod
    def checked(cls, raw: object) -> Ranges:
        """From a stranger's JSON. Raises WireError."""
        good = isinstance(raw, list) and all(
            isinstance(r, list) and len(r) == 2 and all(type(n) is int and 0 <= n < 1 << 62 for n in r) for r in raw
        )
        if not good:
            raise WireError("runs of numbers have the wrong form")
        return cls(raw)  # type: ignore[arg-type]
