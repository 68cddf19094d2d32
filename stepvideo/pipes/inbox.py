"""What a consumer has and may take: offers, grants, memory, duplicates. No I/O.

Whatever producers do, granted and unacknowledged items together take at most `capacity_bytes`: an offer waits until
there is room, in the order in which offers came.
"""

from __future__ import annotations

import zlib
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import numpy as np

from stepvideo.pipes.errors import Replaced, WireError
from stepvideo.pipes.transport import Peer
from stepvideo.pipes.watermark import Watermark
from stepvideo.pipes.wire import Header, aligned, spans

MAX_OFFERS = 8192  # of a producer that wait: more than it may have in flight

Key = tuple[str, int, int]
"""producer, epoch, seq"""


@dataclass(eq=False)
class Incoming:
    """An item on its way in, or here. frames: where its bytes go; `arrived` of them have come."""

    key: Key
    header: Header
    peer: Peer
    lease: np.ndarray | None = None
    frames: list[memoryview] = field(default_factory=list)
    arrived: int = 0
    began: float = 0.0  # s, granted, then complete
    counted: bool = False  # as received; some time after its last byte, and under the lock
    delivered: bool = False

    @property
    def complete(self) -> bool:
        return self.lease is not None and self.arrived == len(self.frames)


@dataclass(eq=False)
class Session:
    """A connection on which a producer said who it is. seen: its offers, counted."""

    peer: Peer
    producer: str
    epoch: int
    instance: str
    frame_bytes: int
    heard: float
    seen: int = 0
    transfers: deque[Incoming] = field(default_factory=deque)  # granted, in the order in which the bytes come


class Inbox:
    def __init__(self, capacity_bytes: int, take: Callable[[int], np.ndarray]) -> None:
        self.capacity_bytes, self._take = capacity_bytes, take
        self.sessions: dict[Peer, Session] = {}
        self.watermark = Watermark()
        self.waiting: dict[Key, Incoming] = {}  # offered, not granted, in the order in which they came
        self._asked = 0  # bytes of `waiting`
        self.held: dict[Key, Incoming] = {}  # granted or here, not acknowledged
        self.ready: deque[Incoming] = deque()  # here, not delivered
        self.used = 0  # bytes of `held`
        self.received = self.acked = self.revoked = self.duplicates = 0

    @property
    def free(self) -> int:
        """Bytes that nobody has asked for."""
        return self.capacity_bytes - self.used - self._asked

    @property
    def discrepancy(self) -> int:
        """Items that came and are not accounted for, or bytes. Always 0."""
        here = sum(i.counted for i in self.held.values())
        used = sum(i.header.memory for i in self.held.values())
        asked = sum(i.header.memory for i in self.waiting.values())
        return abs(self.received - self.acked - self.revoked - here) + abs(self.used - used) + abs(self._asked - asked)

    def open(self, session: Session) -> list[Peer]:
        """A producer says who it is. Returns older connections of that name, which are over.

        Raises:
            Replaced: a later life of this producer is known.
        """
        older = [s for s in self.sessions.values() if s.producer == session.producer]
        if any(s.instance > session.instance for s in older) or not self.watermark.begin(
            session.producer, session.epoch
        ):
            raise Replaced(f"producer {session.producer!r} of epoch {session.epoch} was replaced by a later one")
        for s in older:
            self.close(s.peer)
        self.sessions[session.peer] = session
        for item in self.held.values():
            if item.key[:2] == (session.producer, session.epoch):
                item.peer = session.peer  # where its acknowledgement goes
        return [s.peer for s in older]

    def holds(self, session: Session) -> list[int]:
        """The numbers of this producer's items that are here."""
        return [k[2] for k, i in self.held.items() if k[:2] == (session.producer, session.epoch) and i.complete]

    def offer(self, session: Session, header: Header) -> bool:
        """Whether the item is wanted; if not, it was used before.

        Raises:
            WireError: it can never fit, or there are too many.
        """
        session.seen += 1
        key = (session.producer, session.epoch, header.seq)
        if header.seq in self.watermark.done(*key[:2]):
            self.duplicates += 1
            return False
        if header.memory > self.capacity_bytes:
            raise WireError(f"an item of {header.memory} bytes is above this consumer's {self.capacity_bytes}")
        if len(self.waiting) >= MAX_OFFERS * max(len(self.sessions), 1):
            raise WireError(f"more than {MAX_OFFERS} offers wait")
        if key in self.held or key in self.waiting:
            self.duplicates += 1
        else:
            self.waiting[key] = Incoming(key, header, session.peer)
            self._asked += header.memory
        return True

    def grant(self, now: float) -> list[Incoming]:
        """Offers for which there is room now; their memory is set aside."""
        granted = []
        while self.waiting:
            item = next(iter(self.waiting.values()))
            if self.used + item.header.memory > self.capacity_bytes:
                break
            self._withdraw(item.key)
            session = self.sessions[item.peer]
            item.lease, item.began = self._take(item.header.memory), now
            item.frames = _frames(item.header, item.lease.data, session.frame_bytes)
            self.held[item.key] = item
            self.used += item.header.memory
            session.transfers.append(item)
            granted.append(item)
        return granted

    def place(self, peer: Peer) -> memoryview | None:
        """Where the next bytes of this connection go."""
        session = self.sessions.get(peer)
        item = session.transfers[0] if session and session.transfers else None
        return item.frames[item.arrived] if item else None

    def arrive(self, session: Session, size: int, crc: int | None) -> None:
        """`size` bytes came where `place` said. Raises WireError if they are not what was announced."""
        view = self.place(session.peer)
        if view is None or size != len(view):
            raise WireError(f"a frame of {size} bytes is not what was announced")
        if crc is not None and crc != zlib.crc32(view):
            raise WireError("a frame's CRC is wrong; it was damaged on its way")
        session.transfers[0].arrived += 1

    def finish(self, session: Session, now: float) -> list[tuple[Incoming, float]]:
        """Items that are whole now, with the seconds that they took; they are ready."""
        whole = []
        while session.transfers and session.transfers[0].complete:
            item = session.transfers.popleft()
            item.frames = []  # which would keep the memory
            item.arrived = 0
            whole.append((item, now - item.began))
            item.began = now
            item.counted = True
            self.received += 1
            self.ready.append(item)
        return whole

    def acknowledge(self, key: Key) -> Incoming | None:
        """The item was used. None if it is not here (any more)."""
        self.watermark.add(key)
        item = self.held.pop(key, None)
        if item is not None:
            self.used -= item.header.memory
            self.acked += 1
        return item

    def revoke(self, session: Session, seqs: Iterable[int]) -> None:
        """Others have these. What was granted and has not begun will not come (see `Producer`); what was not delivered
        is forgotten."""
        for seq in seqs:
            key = (session.producer, session.epoch, seq)
            self._withdraw(key)
            item = self.held.get(key)
            if item is None or item.delivered:
                continue
            self.revoked += item.counted
            self._forget(item)
            if item in session.transfers:
                session.transfers.remove(item)
            if item in self.ready:
                self.ready.remove(item)

    def close(self, peer: Peer) -> None:
        """A connection is over: what came whole stays, the rest is forgotten."""
        session = self.sessions.pop(peer, None)
        for key in [k for k, i in self.waiting.items() if i.peer == peer]:
            self._withdraw(key)
        for item in session.transfers if session else ():
            self._forget(item)

    def _withdraw(self, key: Key) -> None:
        item = self.waiting.pop(key, None)
        self._asked -= item.header.memory if item else 0

    def _forget(self, item: Incoming) -> None:
        del self.held[item.key]
        self.used -= item.header.memory


def _frames(header: Header, memory: memoryview, frame_bytes: int) -> list[memoryview]:
    found, offset = [], 0
    for t in header.tensors:
        found += [memory[offset + a : offset + b] for a, b in spans(t.nbytes, frame_bytes)]
        offset += aligned(t.nbytes)
    return found
