"""The SDK: spans, counters and sample records of one rank, written to local segment files by a thread.

    recorder = Recorder(folder, run="t2vi_192/3f…", stage="t2vi_192", rank=0, node="n17", attempt=1)
    recorder.step(1)
    with recorder.span("forward"):
        ...
    recorder.count("tokens", 8640)
    recorder.close()

What is recorded goes into rings, of which the thread makes frames once in a while. Nothing that is called while
training waits for a disk, and nothing of it raises because of one: when frames cannot be written, the oldest are
dropped and counted (counter `telemetry_dropped`). A process that is killed loses what came after the last `flush`, at
most `FLUSH_S` seconds; training flushes before each checkpoint, so that only steps which are done again are lost.

A forked child records nothing: its parent's rings and file are not its own. It may open a recorder of its own; one that
is pickled to a spawned process is that.
"""

from __future__ import annotations

import atexit
import os
import socket
import sys
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from stepvideo.telemetry.device import DeviceClock, DeviceTimers
from stepvideo.telemetry.frames import encode
from stepvideo.telemetry.rings import NOTHING, Nothing, Rings
from stepvideo.telemetry.segments import FOLDER, SegmentWriter

FLUSH_S = 2.0
MOST_FRAMES = 16 << 20  # bytes that wait for a disk
DROPPED = "telemetry_dropped"


class Recorder:
    """Records of one rank. Spans are of the thread that trains; `record` and `count` may be called by any.

    Args:
        folder: telemetry folder, better on a disk of this node than on a shared one.
        clock: of the device that computes, for `device_span`; without one it measures as `span` does.

    Attributes:
        count: (name, value): a number at this moment.
        span: (name) → context manager, measured by the host's clock.
        step: (n): what comes belongs to step n; ends the span `step` of the one before and begins another.
        sample: (sample_id, source, frames, height, width, tokens, kind): a consumed sample.
        dropped: records lost so far.
    """

    count: Callable[[str, float], None]
    span: Callable[[str], AbstractContextManager[Any]]
    step: Callable[[int], None]
    sample: Callable[[str, str, int, int, int, int, str], None]

    def __init__(
        self,
        folder: Path,
        run: str,
        stage: str,
        rank: int = 0,
        node: str = "",
        attempt: int = 0,
        clock: DeviceClock | None = None,
        flush_s: float = FLUSH_S,
    ) -> None:
        self._given = (Path(folder), run, stage, rank, node, attempt)
        node = node or os.environ.get("SLURMD_NODENAME") or socket.gethostname()  # as the scheduler calls it
        identity = {"run": run, "stage": stage, "rank": rank, "node": node, "attempt": attempt}
        name = f"r{rank:05d}-{os.urandom(8).hex()}"
        self.flush_s = flush_s
        self.dropped = self._told = 0
        self._rings = Rings()
        self._use(self._rings)
        self._timers = DeviceTimers(self._rings, clock) if clock is not None else None
        self._writer = SegmentWriter(Path(folder) / FOLDER, name, identity)
        self._waiting: deque[tuple[bytes, int]] = deque()  # frames that could not be written yet, and their records
        self._wake = threading.Condition()
        self._asked = self._served = 0
        self._closing = False
        self._thread = threading.Thread(target=self._write_on, name="telemetry", daemon=True)
        self._thread.start()
        _recorders.add(self)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), self._given

    def device_span(self, name: str) -> AbstractContextManager[Any]:
        """A span of what the device computes for what is launched within it. The host never waits for that."""
        return self.span(name) if self._timers is None else self._timers.span(name)

    def start(self, name: str) -> Any:
        """Begin a span that `stop` ends, for where `with` does not fit."""
        return self.span(name).__enter__()

    def stop(self, started: Any) -> None:
        started.__exit__(None, None, None)

    def end(self) -> None:
        """The step is over, and no other begins yet."""
        self._rings.end()

    def record(self, name: str, start: float, end: float, parent: str = "step") -> None:
        """A span that somebody has measured already, in seconds of `time.perf_counter`."""
        if self._closing:
            return
        began = int(start * 1e9)
        self._rings.spans.append((self._rings.at(), name, parent, began, int(end * 1e9) - began, "cpu"))

    def flush(self, timeout_s: float = 1.0) -> bool:
        """Have all that was recorded written; whether that was done in time. Waits no longer than that."""
        if self._closing:
            return False
        with self._wake:
            self._asked += 1
            asked = self._asked
            self._wake.notify_all()
            return self._wake.wait_for(lambda: self._served >= asked, timeout_s) and not self._waiting

    def close(self, timeout_s: float = 5.0) -> None:
        """End the last step, write what there is and close the segment. Later calls record nothing."""
        if self._closing:
            return
        self._rings.end()
        self._use(NOTHING)
        with self._wake:
            self._closing = True
            self._wake.notify_all()
        self._thread.join(timeout_s)
        self._timers = None

    # -------------------------------------------------------------------------------------------- the thread's side

    def _write_on(self) -> None:
        while True:
            with self._wake:
                self._wake.wait_for(lambda: self._closing or self._asked > self._served, self.flush_s)
                asked, closing = self._asked, self._closing
            try:
                self._write(last=closing)
            except Exception as e:  # a fault of telemetry's must not be training's
                self.dropped += 1
                print(f"telemetry: {type(e).__name__}: {e}", file=sys.stderr, flush=True)
            with self._wake:
                self._served = asked
                self._wake.notify_all()
            if closing:
                self._writer.close()
                return

    def _write(self, last: bool) -> None:
        if (timers := self._timers) is not None:
            timers.poll(wait_s=1.0 if last else 0.0)
        lost = 0
        for table, rows in self._rings.drain():
            kept = rows if (frame := _encoded(table, rows)) else [row for row in rows if _encoded(table, [row])]
            lost += len(rows) - len(kept)
            if kept:
                self._waiting.append((frame or encode(table, kept), len(kept)))
        lost += self._rings.lost()
        while sum(len(frame) for frame, _ in self._waiting) > MOST_FRAMES:
            lost += self._waiting.popleft()[1]
        self.dropped += lost
        try:
            while self._waiting:
                self._writer.append(self._waiting[0][0])
                self._waiting.popleft()
            if untold := self.dropped - self._told:
                self._writer.append(encode("counter", [(self._rings.at(), DROPPED, time.time_ns(), untold)]))
                self._told += untold
            self._writer.rotate(self._writer.most_bytes, self._writer.most_s)
        except OSError:
            return  # the next time, or never

    def _use(self, rings: Rings | Nothing) -> None:
        self.count, self.span, self.step, self.sample = rings.count, rings.span, rings.step, rings.sample

    def _silence(self) -> None:
        """In a forked child, which must not touch its parent's device either."""
        self._closing, self._timers = True, None
        self._use(NOTHING)
        self._rings.clear()
        self._writer.forget()


class NullRecorder(Nothing):
    """Records nothing, at the price of a call."""

    dropped = 0

    def device_span(self, name: str) -> AbstractContextManager[Any]:
        return self.span(name)

    def start(self, name: str) -> Any: ...

    def stop(self, started: Any) -> None: ...

    def record(self, name: str, start: float, end: float, parent: str = "step") -> None: ...

    def flush(self, timeout_s: float = 1.0) -> bool:
        return True

    def close(self, timeout_s: float = 5.0) -> None: ...


def _encoded(table: str, rows: Sequence[tuple[Any, ...]]) -> bytes:
    """A frame; empty if a record has values of other types."""
    try:
        return encode(table, rows)
    except (TypeError, ValueError, OverflowError):
        return b""


AnyRecorder = Recorder | NullRecorder
OFF = NullRecorder()
_recorders: weakref.WeakSet[Recorder] = weakref.WeakSet()


def _in_child() -> None:
    for recorder in list(_recorders):
        recorder._silence()


def _at_exit() -> None:
    for recorder in list(_recorders):
        recorder.close()


os.register_at_fork(after_in_child=_in_child)
atexit.register(_at_exit)
