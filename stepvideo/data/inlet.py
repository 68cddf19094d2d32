"""Where a rank of a training job takes its samples from: it says what it wants, and holds what came until its turn.

A thread receives. What is wanted is kept, in memory that `ahead` steps bound; what came twice, or is not wanted, is
dropped. Everything is acknowledged at once: what a killed job had is asked for again, as the position in its checkpoint
says, so that nothing depends on what a process remembers.
"""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any, Protocol

from torch import Tensor

from stepvideo.data.feed import Feed, Unit, Wish
from stepvideo.data.feed_rates import Rates
from stepvideo.data.unit import Sample, unpacked
from stepvideo.errors import Preempted, StepVideoError
from stepvideo.sink import NullSink, Sink

TELL_S = 30.0  # between two notices that nothing comes


class Item(Protocol):
    """Of `pipes.item.Item` what is used here."""

    @property
    def tensors(self) -> Mapping[str, Tensor]: ...

    @property
    def meta(self) -> Mapping[str, Any]: ...


class Receiver(Protocol):
    """Of `pipes.consumer.Consumer` what is used here."""

    def receive(self, timeout: float | None = None) -> Any: ...

    def ack(self, item: Any) -> None: ...

    def close(self, *, finished: bool = False) -> None: ...


class Inlet:
    """The samples of one rank, step by step.

    Args:
        open_receiver: joins the pipe.
        wish: what this rank wants first.
        stop: whether the job was asked to stop.
    """

    def __init__(
        self,
        feed: Feed,
        wish: Wish,
        open_receiver: Callable[[], Receiver],
        timeout_s: float,
        beat_s: float,
        stop: Callable[[], bool] = lambda: False,
        sink: Sink | None = None,
    ) -> None:
        self.wish = wish
        self._feed, self._timeout_s, self._beat_s, self._stop = feed, timeout_s, beat_s, stop
        self._sink = sink or NullSink()
        self._held: dict[Unit, Item] = {}
        self._lock = threading.Condition()
        self._error: Exception | None = None
        self._rates = Rates()
        self._began = self._told = time.monotonic()
        self._waiting, self._waited_s = 0.0, 0.0  # since when, if it does; earlier
        self._receiver = open_receiver()
        self._closing = False
        self._say()
        self._thread = threading.Thread(target=self._run, name="inlet", daemon=True)
        self._thread.start()

    def take(self, step: int) -> dict[int, Sample]:
        """All samples that this rank has in `step`, by their index in the global batch; waits for them.

        Raises:
            StepVideoError: producers failed, or nothing came for `timeout_s`.
            Preempted: the job was asked to stop while it waited.
        """
        with self._lock:
            if step < self.wish.position:  # rolled back: what was had of these steps is gone
                self.wish.life = uuid.uuid4().hex[:8]
            if step != self.wish.position:
                self._move(step)
            mine = [(step, p) for p in range(self.wish.rank, self.wish.packs, self.wish.ranks)]
            since = told = self._waiting = time.monotonic()
            while not all(u in self._held for u in mine):
                now = time.monotonic()
                self._check(now - since, [u for u in mine if u not in self._held])
                if now - told > TELL_S:
                    told = now
                    self._sink.event("waits_for_producers", step=step, seconds=round(now - since, 1))
                self._lock.wait(self._beat_s)
            self._waited_s, self._waiting = self._waited_s + time.monotonic() - since, 0.0
            items = [self._held[u] for u in mine]
        if self.wish.rank == 0 and (told := self._rates.update(self._feed.wishes(), self._feed.producers())):
            self._sink.event("stream", step=step, **asdict(told))
        return {i: sample for item in items for i, sample in unpacked(item.tensors, item.meta).items()}

    def passed(self, step: int) -> None:
        """The samples of `step` were taken over: producers may go on."""
        with self._lock:
            self._move(step + 1)

    def close(self) -> None:
        """This job needs nothing more."""
        self._closing = True
        self._thread.join()
        self._receiver.close(finished=True)
        self._feed.leave(self.wish)

    def _check(self, waited_s: float, missing: list[Unit]) -> None:
        if self._error is not None:
            raise self._error
        if self._stop():
            raise Preempted
        if (reason := self._feed.failure()) and not self._feed.producers():  # those of another job may live
            raise StepVideoError(f"step {missing[0][0]}: its samples will not come: {reason}")
        if waited_s > self._timeout_s:
            raise StepVideoError(
                f"step {missing[0][0]}: no producer sent pack {missing[0][1]} for {waited_s:.0f} s "
                f"({len(self._feed.producers())} producers live in {self._feed.folder}): see their logs, start more, "
                "or raise runtime.feed.timeout_s"
            )

    def _move(self, step: int) -> None:
        self.wish.position = step
        self._held = {u: item for u, item in self._held.items() if u[0] >= step}
        self._say()

    def _run(self) -> None:
        try:
            while not self._closing:
                try:
                    item = self._receiver.receive(self._beat_s)
                except TimeoutError:
                    item = None
                with self._lock:
                    if item is not None:
                        self._sort(item)
                        self._say()
                        self._lock.notify_all()
                    elif time.monotonic() - self._told > self._beat_s:
                        self._say()
                if item is not None:
                    self._receiver.ack(item)
        except Exception as e:  # for the thread that trains
            with self._lock:
                self._error = e if isinstance(e, StepVideoError) else StepVideoError(f"the pipe of samples: {e}")
                self._lock.notify_all()

    def _sort(self, item: Item) -> None:
        unit = (int(item.meta["step"]), int(item.meta["pack"]))
        if item.meta["plan"] == self.wish.plan and unit in self.wish.units():
            self._held[unit] = item
            self.wish.received += 1
        else:
            self.wish.duplicates += 1

    def _say(self) -> None:
        self._told = time.monotonic()
        self.wish.waited_s = self._waited_s + (self._told - self._waiting if self._waiting else 0.0)
        self.wish.have = sorted(self._held)
        self.wish.elapsed_s = self._told - self._began
        self._feed.wish(self.wish)
