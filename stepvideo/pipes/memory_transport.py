"""Connections inside one process: for tests, and for producers and consumers that are threads.

Bytes are still copied into the consumer's memory, so that both ends own what they have.
"""

from __future__ import annotations

import itertools
import threading
import zlib
from collections import deque
from collections.abc import Iterable, Iterator

from stepvideo.pipes.config import PipeConfig
from stepvideo.pipes.errors import PipeError
from stepvideo.pipes.transport import Event, Peer, Place
from stepvideo.pipes.wire import DATA


class MemoryTransport:
    """Hubs that know each other by `memory://N`."""

    def __init__(self) -> None:
        self._hubs: dict[str, _MemoryHub] = {}
        self._numbers = itertools.count()

    def dial(self, config: PipeConfig) -> _MemoryHub:
        return _MemoryHub(self._hubs, "", config, lambda _: None)

    def listen(self, config: PipeConfig, place: Place) -> _MemoryHub:
        address = f"memory://{next(self._numbers)}"
        hub = self._hubs[address] = _MemoryHub(self._hubs, address, config, place)
        return hub


class _MemoryHub:
    def __init__(self, hubs: dict[str, _MemoryHub], address: str, config: PipeConfig, place: Place) -> None:
        self.address = address
        self._hubs, self._place, self._crc = hubs, place, config.crc
        self._peers: dict[Peer, _MemoryHub] = {}
        self._arrived: deque[tuple[Peer, bytes, bytes | memoryview]] = deque()
        self._changed, self._woken = threading.Condition(), False

    def connect(self, address: str) -> Peer:
        other, peer = self._hubs.get(address), object()
        if other is None:
            raise PipeError(f"nobody listens at {address}")
        self._peers[peer], other._peers[peer] = other, self
        return peer

    def send(self, peer: Peer, kind: bytes, body: bytes = b"") -> None:
        self._give(peer, kind, body)

    def send_payload(self, peer: Peer, frames: Iterable[memoryview]) -> None:
        for frame in frames:
            self._give(peer, DATA + zlib.crc32(frame).to_bytes(4, "little") if self._crc else DATA, frame)

    def _give(self, peer: Peer, kind: bytes, body: bytes | memoryview) -> None:
        other = self._peers.get(peer)
        if other is not None and peer in other._peers:
            with other._changed:
                other._arrived.append((peer, kind, body))
                other._changed.notify()

    def receive(self, timeout_s: float) -> Iterator[Event]:
        with self._changed:
            self._changed.wait_for(lambda: self._arrived or self._woken, max(timeout_s, 0))
            self._woken = False
            found = len(self._arrived)
        for _ in range(found):
            peer, kind, body = self._arrived.popleft()
            if peer not in self._peers:
                continue
            view = self._place(peer) if kind[:1] == DATA else None
            if view is None:
                yield Event(peer, kind[:1], bytes(body))
                continue
            fits = min(len(view), len(body))
            view[:fits] = body[:fits]
            yield Event(peer, DATA, b"", len(body), int.from_bytes(kind[1:], "little") if len(kind) == 5 else None)

    def wake(self) -> None:
        with self._changed:
            self._woken = True
            self._changed.notify()

    def disconnect(self, peer: Peer) -> None:
        self._peers.pop(peer, None)

    def close(self) -> None:
        self._hubs.pop(self.address, None)
        self._peers.clear()
