"""The receiving end of a pipe."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Self

import torch

from stepvideo.pipes.buffers import Pool
from stepvideo.pipes.config import MIB, PipeConfig, check_policy
from stepvideo.pipes.errors import PipeError
from stepvideo.pipes.inbox import Inbox, Incoming
from stepvideo.pipes.item import Item
from stepvideo.pipes.member import CONSUMER, MAX_LEASE_S, Member, Registry, new_instance
from stepvideo.pipes.metrics import Latency, Rates
from stepvideo.pipes.presence import Presence
from stepvideo.pipes.receiver import Receiver
from stepvideo.pipes.transport import Transport
from stepvideo.pipes.wire import aligned
from stepvideo.pipes.zmq_transport import ZmqTransport


class Consumer:
    """Receives this rank's share of a pipe for one job.

    name: of this consumer in its job; a later one of the same name replaces it. By default the rank.
    capacity_bytes: at most this much lies here unacknowledged, over all producers.
    policy: what producers do when this job does not keep up, if it shall not be their default.
    state: as `state_dict` gave it, of this rank or (a list) of all ranks: what was acknowledged then is dropped.
    transport: ZeroMQ over TCP if none is given.

    Raises:
        ValueError: an impossible setting.
        PipeError: the address or the keys cannot be used, or the state is none.
    """

    def __init__(
        self,
        registry: Registry,
        pipe: str,
        job: str,
        rank: int,
        name: str | None = None,
        *,
        capacity_bytes: int = 256 * MIB,
        policy: str | None = None,
        state: dict[str, Any] | list[dict[str, Any]] | None = None,
        config: PipeConfig | None = None,
        transport: Transport | None = None,
    ) -> None:
        if capacity_bytes < 1 or rank < 0:
            raise ValueError(f"pipes: capacity_bytes={capacity_bytes} or rank={rank} is too low; give at least 1 and 0")
        self.config = config or PipeConfig()
        self._pool = Pool(capacity_bytes, self.config.pin)
        self._inbox = Inbox(capacity_bytes, self._pool.take)
        self._lock = threading.Condition()
        self._error: PipeError | None = None
        self._queueing, self._rates, self._starved_s = Latency(), Rates(), 0.0
        self.load_state_dict(state or {})
        self._receiver = Receiver(self._inbox, self._lock, transport or ZmqTransport(), pipe, self.config, self._fail)
        self._member = Member(
            pipe,
            CONSUMER,
            name or str(rank),
            new_instance(),
            self._receiver.address,
            job,
            rank,
            capacity_bytes,
            check_policy(policy) if policy else "",
            lease_s=2 * self.config.heartbeat_s,
        )
        self._receiver.start()
        self._presence = Presence(registry, self._describe, None, self._fail, self.config.heartbeat_s)

    def receive(self, timeout: float | None = None) -> Item:
        """The next item; one producer's come in the order in which they were sent here.

        Raises:
            TimeoutError: none came in `timeout` seconds.
            PipeError: closed, disconnected by a producer (policy), or replaced by a later life of this name.
        """
        start = time.monotonic()
        with self._lock:
            while not self._inbox.ready:
                if self._error is not None:
                    raise self._error
                now = time.monotonic()
                left = self.config.heartbeat_s if timeout is None else start + timeout - now
                if left <= 0:
                    raise TimeoutError(f"no item in {timeout} s")
                self._lock.wait(min(left, self.config.heartbeat_s))
                self._starved_s += time.monotonic() - now
            item = self._inbox.ready.popleft()
            item.delivered = True
            self._queueing.add(time.monotonic() - item.began)
        return _item(item)

    def ack(self, item: Item) -> None:
        """The item was used: its producer forgets it, its memory is granted to others. Returns at once."""
        with self._lock:
            self._receiver.acknowledged((item.producer, item.epoch, item.seq))

    def state_dict(self) -> dict[str, Any]:
        """The watermark: what was acknowledged, by producer and epoch. JSON; goes into the training checkpoint."""
        with self._lock:
            return self._inbox.watermark.state_dict()

    def load_state_dict(self, state: dict[str, Any] | list[dict[str, Any]]) -> None:
        """Merge watermarks: what they name is dropped when it comes again. Best given when made; raises PipeError."""
        with self._lock:
            for one in state if isinstance(state, list) else [state]:
                self._inbox.watermark.merge(one)

    def metrics(self) -> dict[str, Any]:
        """Counts, bytes, latencies and rates; docs/pipes.md explains each."""
        with self._lock:
            box, receiver = self._inbox, self._receiver
            counters = {
                "received": box.received,
                "acked": box.acked,
                "duplicates": box.duplicates,
                "revoked": box.revoked,
                "received_bytes": receiver.received_bytes,
                "starved_s": self._starved_s,
            }
            return {
                **counters,
                **self._rates.update(time.monotonic(), counters),
                "held": box.received - box.acked - box.revoked,
                "used_bytes": box.used,
                "capacity_bytes": box.capacity_bytes,
                "memory_bytes": self._pool.allocated,
                "discrepancy": box.discrepancy,
                "refused": receiver.refused,
                "producers": len(box.sessions),
                "queue_s": self._queueing.summary(),
                "transfer_s": receiver.transfer.summary(),
            }

    def close(self, *, finished: bool = False) -> None:
        """Leave. What is unacknowledged goes to other ranks, or waits for this job to come back (`rejoin_s`).

        finished: the job needs nothing more; its producers forget it once its last consumer has gone. That is said on
            every connection, and in the registry for those that are broken.
        """
        stays = min(max(self.config.rejoin_s, self._member.lease_s), MAX_LEASE_S)
        self._presence.close(replace(self._member, finished=True, lease_s=stays) if finished else None)
        self._receiver.close(finished)
        self._fail(self._error or PipeError("this consumer is closed"))

    def _describe(self) -> Member:
        return replace(self._member, metrics=self.metrics())

    def _fail(self, error: PipeError) -> None:
        with self._lock:
            self._error = error
            self._lock.notify_all()

    def __iter__(self) -> Iterator[Item]:
        while True:
            yield self.receive()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _item(item: Incoming) -> Item:
    """Tensors in the memory into which the bytes came."""
    assert item.lease is not None
    whole, offset, tensors = torch.from_numpy(item.lease), 0, {}
    for t in item.header.tensors:
        flat = whole[offset : offset + t.nbytes].view(getattr(torch, t.dtype))
        tensors[t.name], offset = flat.reshape(t.shape), offset + aligned(t.nbytes)
    producer, epoch, seq = item.key
    return Item(producer, epoch, seq, tensors, item.header.meta)
