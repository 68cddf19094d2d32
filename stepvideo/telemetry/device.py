"""Timers of a device that computes later than the host launches: events, and nobody who waits for them.

A span puts two events into the device's queue. The recorder's thread asks once in a while whether the last one has
passed (`query`), and only then reads both. Durations are the device's own. Where on the wall clock they lie follows
from the span before: events know the time between them, not the time of day. This chain starts anywhere and is held by
what is certain: an event passes after the host has put it into the queue and before the host sees that it has passed.
So the clocks may drift and nothing has to be synchronised, at the start neither.
"""

from __future__ import annotations

from collections import deque
from contextlib import AbstractContextManager
from time import perf_counter_ns, sleep
from typing import Any, NamedTuple, Protocol

from stepvideo.telemetry.rings import MOST, Rings


class Event(Protocol):
    def record(self) -> Any:
        """Put it into the queue of what the device is to do; never waits."""
        ...

    def query(self) -> bool:
        """Whether the device has come past it; never waits."""
        ...


class DeviceClock(Protocol):
    name: str
    """What the column `device` says."""

    def event(self) -> Event: ...

    def between(self, start: Any, end: Any) -> int:
        """Nanoseconds from one event to a later one, both passed."""
        ...


class CudaClock:
    """Events of the CUDA stream that is current where they are recorded."""

    name = "cuda"

    def event(self) -> Event:
        import torch

        return torch.cuda.Event(enable_timing=True)  # type: ignore[return-value]

    def between(self, start: Any, end: Any) -> int:
        return round(start.elapsed_time(end) * 1e6)


class _Launched(NamedTuple):
    step: int
    name: str
    parent: str
    start: Event
    end: Event
    from_ns: int  # the host put them there, by perf_counter_ns
    until_ns: int


class DeviceTimers:
    """Spans by a device's events, which are used again and again; finished ones go to the rings' spans."""

    def __init__(self, rings: Rings, clock: DeviceClock) -> None:
        self.rings, self.clock = rings, clock
        self._free: deque[Event] = deque()
        self._launched: deque[_Launched] = deque(maxlen=MOST)
        self._anchor: tuple[Event, int] | None = None  # the last end event that has passed, and when that was

    def span(self, name: str) -> AbstractContextManager[Any]:
        return _DeviceSpan(self, name)

    def event(self) -> Event:
        """One that is recorded."""
        try:
            event = self._free.popleft()
        except IndexError:
            event = self.clock.event()
        event.record()
        return event

    def launched(self, *what: Any) -> None:
        self._launched.append(_Launched(*what))

    def poll(self, wait_s: float = 0.0) -> None:
        """Read the spans that the device has finished; for a last time, wait that long for the others.

        Of one thread. Spans of one stream finish in the order in which they end.
        """
        until = perf_counter_ns() + int(wait_s * 1e9)
        while self._launched:
            if not self._launched[0].end.query():
                if perf_counter_ns() >= until:
                    return
                sleep(0.001)
                continue
            self._finish(self._launched.popleft(), perf_counter_ns())

    def _finish(self, span: _Launched, seen_ns: int) -> None:
        took = self.clock.between(span.start, span.end)
        end = seen_ns if self._anchor is None else self._anchor[1] + self.clock.between(self._anchor[0], span.end)
        end = min(max(end, span.until_ns, span.from_ns + took), seen_ns)
        if self._anchor is not None:
            self._free.append(self._anchor[0])
        self._anchor = (span.end, end)
        self._free.append(span.start)
        self.rings.spans.append((span.step, span.name, span.parent, end - took, took, self.clock.name))


class _DeviceSpan:
    __slots__ = ("_from", "_name", "_parent", "_start", "_timers")

    def __init__(self, timers: DeviceTimers, name: str) -> None:
        self._timers, self._name = timers, name

    def __enter__(self) -> None:
        timers = self._timers
        self._parent = timers.rings.enter(self._name)
        self._from, self._start = perf_counter_ns(), timers.event()

    def __exit__(self, *_: object) -> None:
        timers, rings = self._timers, self._timers.rings
        end = timers.event()
        rings.leave(self._parent)
        timers.launched(rings.at(), self._name, self._parent, self._start, end, self._from, perf_counter_ns())
