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
        self._awaited: dict[int, int] = {}  # of packets that gave no frame yet: time shown → time decoded
        self._untimed = False
        self._cut_short = False

    def packet(self, pts: int | None, dts: int | None, corrupt: bool = False) -> None:
        """`corrupt`: the demuxer says so; it may have lost what was to come before it, too."""
        decoded = pts if dts is None else dts
        if pts is not None and decoded is not None:
            self._awaited[pts] = decoded
        if corrupt and decoded is not None:
            self._bad.append(decoded)
        self._untimed |= corrupt and decoded is None

    def refused(self, pts: int | None) -> None:
        """The decoder had an error at a packet. One that gives no frame in the end is noticed by that alone."""
        self._untimed |= pts is None

    def to_the_end(self) -> None:
        """Nothing more can be read."""
        self._cut_short = True

    def frame(self, pts: int | None, key: bool, corrupt: bool) -> None:
        last = self._shown[-1] if self._shown else pts
        if pts is None or last is None:
            self._untimed, pts, last = True, last or 0, last or 0  # no order to go by
        decoded = self._awaited.pop(pts, pts)
        disordered = pts < last
        self._shown.append(max(pts, last))
        if corrupt or disordered:
            self._bad.append(decoded)
        elif key:
            self._keys.append(pts)

    def spans(self) -> list[Span]:
        """Unsound frames as [start, end); empty ranges where a packet between sound frames gave none.

        Only to be asked of files that are damaged: VP8 has packets that are sound and give no frame.
        """
        count = len(self._shown)
        if self._untimed:
            return [(0, count)]
        found: list[Span] = []
        for time in sorted([*self._bad, *self._awaited.values()]):
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
