"""Which frames of a file damage may have reached, from what its packets and frames say."""

from __future__ import annotations

from bisect import bisect_left

Span = tuple[int, int]


class Damage:
    """Told of every packet and frame in order, in the stream's time units.

    A packet's picture can only be used by pictures that are decoded later, and these are shown no earlier than its
    decoding time. So what is shown from there to the next keyframe is unsound; a keyframe starts afresh.
    """

    def __init__(self) -> None:
        self._shown: list[int] = []  # by frame
        self._keys: list[int] = []  # times of keyframes
        self._bad: list[int] = []  # times from which on something is wrong
        self._delay = 0  # longest time from decoding to showing
        self._untimed = False
        self._cut_short = False

    def packet(self, pts: int | None, dts: int | None) -> None:
        if pts is not None and dts is not None:
            self._delay = max(self._delay, pts - dts)

    def refused(self, dts: int | None) -> None:
        """The decoder gave nothing for a packet."""
        last = self._shown[-1] if self._shown else 0
        self._bad.append(min(dts, last + 1) if dts is not None else last + 1)

    def to_the_end(self) -> None:
        """Nothing more can be read."""
        self._cut_short = True

    def frame(self, pts: int | None, key: bool, corrupt: bool) -> None:
        if pts is None or (self._shown and pts < self._shown[-1]):
            self._untimed = True  # no order to go by
            pts = self._shown[-1] if self._shown else 0
        self._shown.append(pts)
        if corrupt:
            self._bad.append(pts - self._delay)
        elif key:
            self._keys.append(pts)

    def spans(self) -> list[Span]:
        """Unsound frames as [start, end); empty ranges where a packet between sound frames gave none."""
        count = len(self._shown)
        if self._untimed and self._bad:
            return [(0, count)]
        found: list[Span] = []
        for time in sorted(self._bad):
            following = bisect_left(self._keys, time + 1)
            end = bisect_left(self._shown, self._keys[following]) if following < len(self._keys) else count
            span = (min(bisect_left(self._shown, time), end), end)
            if not found or span[0] > found[-1][1]:
                found.append(span)
            else:
                found[-1] = (found[-1][0], max(end, found[-1][1]))
        if self._cut_short:
            found.append((count, count))
        return found
