"""A consumer's thread: it lets producers in, grants, receives into memory that is there, and says what was used."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from stepvideo.pipes import keys, wire
from stepvideo.pipes.config import PipeConfig
from stepvideo.pipes.errors import PipeError, Replaced, WireError
from stepvideo.pipes.inbox import Inbox, Incoming, Key, Session
from stepvideo.pipes.metrics import Latency
from stepvideo.pipes.transport import Event, Hub, Peer, Place, Transport

TELL_S = 0.02  # how often producers are told, at most, that others' items made room


class Receiver:
    """inbox: under `lock`, which is notified of items; fail: is told why it stopped, or that a producer gave us up."""

    def __init__(
        self,
        inbox: Inbox,
        lock: threading.Condition,
        transport: Transport,
        pipe: str,
        config: PipeConfig,
        fail: Callable[[PipeError], None],
    ) -> None:
        self._inbox, self._lock, self._pipe, self._config, self._fail = inbox, lock, pipe, config, fail
        self._keys = keys.load(config)
        place: Place = self._place
        self._hub: Hub = transport.listen(config, place)
        self._acked: list[Incoming] = []  # under the lock
        self._next_beat = self._next_tell = self._turned = 0.0
        self._farewell: bytes | None = None
        self.refused = 0  # connections given up because of what was said on them
        self.transfer = Latency()  # from the grant to the last byte
        self.received_bytes = 0
        self._thread = threading.Thread(target=self._run, name="pipes-receiver", daemon=True)

    @property
    def address(self) -> str:
        return self._hub.address

    def start(self) -> None:
        self._thread.start()

    def close(self, finished: bool) -> None:
        self._farewell = wire.encode({"reason": "closed", "finished": finished})
        self._hub.wake()
        self._thread.join()

    def acknowledged(self, key: Key) -> None:
        """The user is done with an item; the caller holds the lock."""
        item = self._inbox.acknowledge(key)
        if item is not None:
            self._acked.append(item)
            self._hub.wake()

    def _run(self) -> None:
        try:
            while self._farewell is None:
                self._turn()
            self._say_acked()
            for peer in self._inbox.sessions:
                self._hub.send(peer, wire.BYE, self._farewell)
        except PipeError as e:
            self._fail(e)
        finally:
            self._hub.close()

    def _turn(self) -> None:
        now = time.monotonic()
        if now - self._turned > self._config.heartbeat_s:  # we slept, and what was said waits unread
            for session in self._inbox.sessions.values():
                session.heard = now
        self._turned = now
        for event in self._hub.receive(min(self._config.heartbeat_s / 4, max(self._next_tell - now, 0.001))):
            self._hear(event)
        self._turned = now = time.monotonic()
        self._say_acked()
        self._grant(now)
        if now >= self._next_beat:
            self._next_beat = now + self._config.heartbeat_s / 2
            self._next_tell = now
            for session in list(self._inbox.sessions.values()):
                if now - session.heard > 2 * self._config.heartbeat_s:
                    self._end(session.peer, "silent")
        if now >= self._next_tell:
            self._next_tell = float("inf")
            self._tell(list(self._inbox.sessions))

    def _place(self, peer: Peer) -> memoryview | None:
        return self._inbox.place(peer)

    def _hear(self, event: Event) -> None:
        session = self._inbox.sessions.get(event.peer)
        try:
            if session is None:
                self._admit(event)
                return
            session.heard = time.monotonic()
            if event.kind == wire.DATA:
                self._arrive(session, event)
            else:
                self._obey(session, event.kind, event.body)
        except Replaced as e:
            self._end(event.peer, str(e), replaced=True)
        except WireError as e:
            self.refused += 1
            self._end(event.peer, str(e))

    def _admit(self, event: Event) -> None:
        """A stranger becomes a producer, if it says the right things. Raises WireError, Replaced."""
        if event.kind != wire.HELLO:
            raise WireError("who are you?")
        message = wire.decode(event.body)
        if not self._keys.admits(message.get("token")):
            raise WireError("the token is wrong; give every member the same file of keys")
        version, pipe = message.get("version"), message.get("pipe")
        if version != wire.VERSION or pipe != self._pipe:
            raise WireError(
                f"this is pipe {self._pipe!r}, version {wire.VERSION}, not {str(pipe)[:80]!r}, {version!r:.10}"
            )
        frame_bytes = wire.integer(message, "frame_bytes")
        if not 1 <= frame_bytes <= self._config.frame_bytes:
            raise WireError(f"frames of {frame_bytes} bytes are above frame_bytes={self._config.frame_bytes} here")
        who = wire.text(message, "producer"), wire.integer(message, "epoch"), wire.text(message, "instance")
        session = Session(event.peer, *who, frame_bytes, time.monotonic())
        with self._lock:
            for older in self._inbox.open(session):
                self._hub.disconnect(older)
            done, held = self._inbox.watermark.done(*who[:2]).runs(), self._inbox.holds(session)
            free = self._inbox.free
        answer = {"capacity": self._inbox.capacity_bytes, "free": free, "done": done, "held": held}
        self._hub.send(event.peer, wire.WELCOME, wire.encode(answer))

    def _arrive(self, session: Session, event: Event) -> None:
        self._inbox.arrive(session, event.size, event.crc)
        self.received_bytes += event.size
        self._finish(session)

    def _finish(self, session: Session) -> None:
        if session.transfers and session.transfers[0].complete:
            with self._lock:
                for _, seconds in self._inbox.finish(session, time.monotonic()):
                    self.transfer.add(seconds)
                self._lock.notify_all()

    def _obey(self, session: Session, kind: bytes, body: bytes) -> None:
        message = {} if kind == wire.OFFER else wire.decode(body)
        if kind == wire.OFFER:
            header = wire.Header.decode(body, self._config.max_item_bytes)
            with self._lock:
                wanted = self._inbox.offer(session, header)
            if not wanted:
                self._send(session.peer, wire.ACK, seqs=[header.seq])
        elif kind == wire.PING:
            with self._lock:
                self._inbox.watermark.settle(session.producer, session.epoch, wire.integer(message, "floor"))
        elif kind == wire.REVOKE:
            with self._lock:
                self._inbox.revoke(session, wire.integers(message, "seqs"))
        elif kind == wire.BYE:
            self._close(session.peer)
            if message.get("too_slow"):
                self._fail(PipeError(f"producer {session.producer!r} disconnected this job: it was too slow (policy)"))
        else:
            raise WireError("out of turn")

    def _grant(self, now: float) -> None:
        with self._lock:
            granted = self._inbox.grant(now)
        for item in granted:
            self._send(item.peer, wire.GRANT, seq=item.header.seq)
            self._finish(self._inbox.sessions[item.peer])  # an item without a byte is here already

    def _say_acked(self) -> None:
        with self._lock:
            acked, self._acked = self._acked, []
        seqs: dict[Peer, list[int]] = {}
        for item in acked:
            seqs.setdefault(item.peer, []).append(item.header.seq)
        for peer in seqs.keys() & self._inbox.sessions.keys():
            self._send(peer, wire.ACK, seqs=seqs[peer])
        if acked:
            self._next_tell = min(self._next_tell, time.monotonic() + TELL_S)

    def _tell(self, peers: list[Peer]) -> None:
        for peer in peers:
            self._send(peer, wire.FREE)

    def _send(self, peer: Peer, kind: bytes, **message: object) -> None:
        """With how much memory is free, after how many offers of this producer."""
        state = {"free": self._inbox.free, "seen": self._inbox.sessions[peer].seen}
        self._hub.send(peer, kind, wire.encode({**message, **state}))

    def _end(self, peer: Peer, reason: str, **more: bool) -> None:
        with self._lock:
            self._inbox.close(peer)  # who hears of it finds the memory free
        self._hub.send(peer, wire.BYE, wire.encode({"reason": reason[:200], **more}))
        self._hub.disconnect(peer)

    def _close(self, peer: Peer) -> None:
        with self._lock:
            self._inbox.close(peer)
        self._hub.disconnect(peer)
