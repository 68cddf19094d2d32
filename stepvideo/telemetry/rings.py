"""The hot path: bounded rings of records, and the few calls that put them there.

These are closures over their rings and over what the current step and span are, for a cell is read faster than an
attribute, and a span is an object of two slots. A call is 0.1 to 0.5 µs (docs/telemetry.md); the clock, read once or
twice, is a third of that. `deque` drops its oldest by itself and needs no lock.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from time import perf_counter_ns
from typing import Any

MOST = 1 << 16  # records of a table that wait for the thread
FRAME = 1 << 14  # records of a frame


class Rings:
    """Records by table, as tuples in the schema's order without identity; times are of `perf_counter_ns` until drained.

    A ring holds `most` records, for `step` drops what is more, oldest first, and counts it. Between two steps it may
    grow to twice as many; what falls out then is counted as one.
    """

    def __init__(self, most: int = MOST) -> None:
        self.most = most
        self.spans: deque[tuple[Any, ...]] = deque(maxlen=2 * most)
        self.counters: deque[tuple[Any, ...]] = deque(maxlen=2 * most)
        self.samples: deque[tuple[Any, ...]] = deque(maxlen=2 * most)
        self._lost: deque[int] = deque()
        self._hot_path()

    def _hot_path(self) -> None:
        now, trim, rings = perf_counter_ns, self._trim, (self.spans, self.counters, self.samples)
        add_span, add_counter, add_sample = self.spans.append, self.counters.append, self.samples.append
        most, step, began, current = self.most, 0, 0, ""

        def count(name: str, value: float) -> None:
            add_counter((step, name, now(), value))

        def sample(sample_id: str, source: str, frames: int, height: int, width: int, tokens: int, kind: str) -> None:
            add_sample((step, sample_id, source, frames, height, width, tokens, kind, now()))

        class Span:
            __slots__ = ("name", "parent", "start")

            def __init__(self, name: str) -> None:
                self.name = name

            def __enter__(self) -> Span:
                nonlocal current
                self.parent = current
                current = self.name
                self.start = now()
                return self

            def __exit__(self, *_: object) -> None:
                nonlocal current
                took = now() - self.start
                current = self.parent
                add_span((step, self.name, current, self.start, took, "cpu"))

        def begin(n: int) -> None:
            nonlocal step, began, current
            end()
            step, began, current = n, now(), "step"
            for ring in rings:
                if len(ring) > most:
                    trim(ring)

        def end() -> None:
            nonlocal began, current
            if began:
                add_span((step, "step", "", began, now() - began, "cpu"))
            began, current = 0, ""

        def enter(name: str) -> str:
            nonlocal current
            parent, current = current, name
            return parent

        def leave(parent: str) -> None:
            nonlocal current
            current = parent

        self.count, self.sample, self.span, self.step, self.end = count, sample, Span, begin, end
        self.enter, self.leave = enter, leave
        self.at: Callable[[], int] = lambda: step

    def drain(self) -> Iterator[tuple[str, list[tuple[Any, ...]]]]:
        """(table, its next records, at most `FRAME`), taken out, with wall-clock times."""
        wall = time.time_ns() - perf_counter_ns()
        for table, ring, place in (("span", self.spans, 3), ("counter", self.counters, 2), ("sample", self.samples, 8)):
            count = len(ring)
            if count == ring.maxlen:
                self._lost.append(1)
            while count > 0 and (rows := list(_take(ring, min(count, FRAME)))):
                count -= len(rows)
                yield table, [(*r[:place], r[place] + wall, *r[place + 1 :]) for r in rows]

    def lost(self) -> int:
        """Records that were dropped since the last call."""
        return sum(_take(self._lost, len(self._lost)))

    def clear(self) -> None:
        for ring in (self.spans, self.counters, self.samples):
            ring.clear()

    def _trim(self, ring: deque[tuple[Any, ...]]) -> None:
        self._lost.append(sum(1 for _ in _take(ring, len(ring) - self.most)))


def _take(ring: deque[Any], count: int) -> Iterator[Any]:
    """The oldest ones, out of it; fewer if somebody else takes them."""
    for _ in range(count):
        try:
            yield ring.popleft()
        except IndexError:
            return


class Nothing:
    """Rings that keep nothing."""

    _span: AbstractContextManager[Any] = nullcontext()

    def count(self, name: str, value: float) -> None: ...

    def sample(self, *_: Any) -> None: ...

    def step(self, n: int) -> None: ...

    def end(self) -> None: ...

    def span(self, name: str) -> AbstractContextManager[Any]:
        return self._span


NOTHING = Nothing()
