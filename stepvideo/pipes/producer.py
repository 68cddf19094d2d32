"""The sending end of a pipe."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Self

from stepvideo.pipes.config import BLOCK, MIB, PipeConfig, check_policy
from stepvideo.pipes.errors import PipeError
from stepvideo.pipes.group import Outgoing
from stepvideo.pipes.member import PRODUCER, Member, Registry, new_instance
from stepvideo.pipes.outbox import Outbox
from stepvideo.pipes.payload import Loader, specify
from stepvideo.pipes.presence import Presence
from stepvideo.pipes.sender import Sender
from stepvideo.pipes.transport import Transport
from stepvideo.pipes.wire import Header
from stepvideo.pipes.zmq_transport import ZmqTransport

if TYPE_CHECKING:
    from torch import Tensor


class Producer:
    """Sends items to every job that joined the pipe, each to one rank of it.

    window_bytes: at most this much is unacknowledged for a job, which bounds the memory that this end keeps.
    policy: of `PipeConfig`; a job's own goes before it.
    jobs: get every item from the first on, whether they are here yet or not; other jobs from when they join.
    epoch: which life of this name this is; by default the time of its start. A producer that makes the same items
        again after a restart gives the same epoch, and its own numbers to `send`: what was used then is not sent again.
    transport: ZeroMQ over TCP if none is given.

    Raises:
        ValueError: an impossible setting.
        PipeError: the keys cannot be used.
    """

    def __init__(
        self,
        registry: Registry,
        pipe: str,
        name: str,
        *,
        window_bytes: int = 256 * MIB,
        policy: str = BLOCK,
        jobs: Iterable[str] = (),
        epoch: int | None = None,
        config: PipeConfig | None = None,
        transport: Transport | None = None,
    ) -> None:
        if window_bytes < 1:
            raise ValueError(f"pipes: window_bytes={window_bytes} holds no item; give more")
        self.config = config or PipeConfig()
        self.epoch = time.time_ns() if epoch is None else epoch
        self._window_bytes, self._next_seq = window_bytes, 0
        self._outbox = Outbox(window_bytes, check_policy(policy), jobs, time.monotonic())
        self._loader = Loader(self.config.frame_bytes, window_bytes)
        self._lock = threading.Condition()
        self._error: PipeError | None = None
        self._greeted_by = time.monotonic() + 3 * self.config.heartbeat_s
        self._member = Member(pipe, PRODUCER, name, new_instance(), lease_s=2 * self.config.heartbeat_s)
        hello = {"pipe": pipe, "producer": name, "epoch": self.epoch, "instance": self._member.instance}
        hub = (transport or ZmqTransport()).dial(self.config)
        self._sender = Sender(self._outbox, self._lock, hub, hello, self.config, self._fail)
        self._sender.start()
        self._presence = Presence(registry, self._describe, self._sender.see, self._fail, self.config.heartbeat_s)

    def send(
        self,
        tensors: dict[str, Tensor],
        meta: dict[str, Any] | None = None,
        *,
        rank: int | None = None,
        seq: int | None = None,
        timeout: float | None = None,
    ) -> int:
        """Hand an item over and return its number; the tensors must not be written into afterwards.

        Waits while a job's window is full (policy `block`), and at first until the consumers that are there have
        answered and some job has joined. One thread sends.

        rank: None sprays: inside each job to the consumer with most free memory; a number: to that rank of every job.
        seq: the item's number, above all sent so far; by default the next.

        Raises:
            TimeoutError: it still waits after `timeout` seconds; the item was not taken.
            PipeError: the item is larger than the window or than every consumer's memory, is no dict of tensors or
                has meta that is not JSON; the producer is closed, or a later one has its name.
        """
        seq = self._next_seq if seq is None else seq
        if seq < self._next_seq:
            raise PipeError(f"seq={seq} was sent before or passed by; the next is {self._next_seq} or above")
        header = Header(seq, specify(tensors), meta or {})
        limit = min(self._window_bytes, self.config.max_item_bytes)
        if header.memory > limit:
            raise PipeError(
                f"an item of {header.memory} bytes is above {limit} (window_bytes, max_item_bytes); split it"
            )
        item = Outgoing(seq, rank, header.memory, header.encode(), self._loader.load(tensors), time.monotonic())
        with self._lock:
            self._wait_for_room(item, timeout)
            self._next_seq = seq + 1
            for group in self._outbox.put(item):
                self._sender.give_up(group)
        self._sender.wake()
        return seq

    def _wait_for_room(self, item: Outgoing, timeout: float | None) -> None:
        until = None if timeout is None else item.born + timeout
        while True:
            self._check()
            present, now = self._outbox.present, time.monotonic()
            jobs = self._outbox.blocking(item)
            if present and not jobs and (self._sender.greeted or now > self._greeted_by):
                break
            if until is not None and now >= until:
                told = f" (a consumer said: {self._sender.told})" if self._sender.told else ""
                why = ", ".join(jobs) or f"no job has joined{told}"
                raise TimeoutError(f"no room for item {item.seq} in {timeout} s: {why}")
            self._lock.wait(min(self.config.heartbeat_s, until - now if until else self.config.heartbeat_s))
            self._outbox.blocked(jobs, time.monotonic() - now)
        for g in present:
            if g.seats and all(s.capacity < item.nbytes for s in g.seats):
                most = max(s.capacity for s in g.seats)
                raise PipeError(f"an item of {item.nbytes} bytes is above the {most} that consumers of {g.job!r} take")

    def settled(self, seq: int) -> bool:
        """Whether every job that is here used this item, in this or an earlier life of this epoch."""
        with self._lock:
            present = self._outbox.present
            return bool(present) and all(seq in g.done for g in present)

    def flush(self, timeout: float | None = None) -> None:
        """Wait until every job acknowledged everything. Raises TimeoutError, or PipeError as `send`."""

        def done() -> bool:
            self._check()
            return not any(g.in_flight for g in self._outbox.present)

        with self._lock:
            if not self._lock.wait_for(done, timeout):
                left = {g.job: g.in_flight for g in self._outbox.present if g.in_flight}
                raise TimeoutError(f"after {timeout} s items are not acknowledged, by job: {left}")

    def metrics(self) -> dict[str, Any]:
        """Counts, bytes, latencies and rates by job; docs/pipes.md explains each."""
        with self._lock:
            return {
                "epoch": self.epoch,
                "refused": self._sender.refused,
                "jobs": self._outbox.metrics(time.monotonic()),
            }

    def close(self) -> None:
        """Leave the pipe. What is not acknowledged is given up; `flush` first."""
        self._presence.close()
        self._sender.close()
        with self._lock:
            self._outbox.close()
            self._error = self._error or PipeError("this producer is closed")
            self._lock.notify_all()

    def _describe(self) -> Member:
        return replace(self._member, metrics=self.metrics())

    def _fail(self, error: PipeError) -> None:
        with self._lock:
            self._error = error
            self._lock.notify_all()

    def _check(self) -> None:
        if self._error is not None:
            raise self._error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
