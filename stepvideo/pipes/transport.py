"""The seam to networks. ZeroMQ over TCP is one transport, this process's memory another; RDMA would be a third.

A hub is one process's end of all its connections and belongs to the thread that calls it; only `wake` may be called
from others. Messages of one connection arrive in order or the connection is over. There is no silent reconnection:
whoever hears nothing for two heartbeats disconnects, and connects anew if it wants.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from typing import NamedTuple, Protocol

from stepvideo.pipes.config import PipeConfig

Peer = Hashable


class Event(NamedTuple):
    """A message. DATA: `size` bytes were written where `place` said; they have the CRC `crc` if the sender gave one."""

    peer: Peer
    kind: bytes
    body: bytes = b""
    size: int = 0
    crc: int | None = None


Place = Callable[[Peer], memoryview | None]
"""Where the next bytes of a tensor from this peer go; None: nowhere, they were not asked for."""


class Hub(Protocol):
    """address: where others connect; empty for one that only connects."""

    address: str

    def connect(self, address: str) -> Peer: ...

    def send(self, peer: Peer, kind: bytes, body: bytes = b"") -> None:
        """Queue a message; nothing happens if the peer is gone."""
        ...

    def send_payload(self, peer: Peer, frames: Iterable[memoryview]) -> None:
        """Queue bytes of an item as DATA. They are not copied: the views keep their memory until it was sent."""
        ...

    def receive(self, timeout_s: float) -> Iterable[Event]:
        """What has arrived, after waiting for it at most so long or until `wake`."""
        ...

    def wake(self) -> None: ...

    def disconnect(self, peer: Peer) -> None:
        """Give a connection up, and what is queued on it."""
        ...

    def close(self) -> None: ...


class Transport(Protocol):
    def dial(self, config: PipeConfig) -> Hub:
        """For a producer: it connects."""
        ...

    def listen(self, config: PipeConfig, place: Place) -> Hub:
        """For a consumer: others connect. Raises PipeError if the address cannot be had or may not be."""
        ...
