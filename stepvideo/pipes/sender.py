"""A producer's thread: it finds consumers, offers, sends what is granted, hears of acknowledgements and of deaths."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from stepvideo.pipes import keys, wire
from stepvideo.pipes.config import PipeConfig
from stepvideo.pipes.errors import PipeError, Replaced, WireError
from stepvideo.pipes.group import Group, Seat
from stepvideo.pipes.member import CONSUMER, Member
from stepvideo.pipes.outbox import Outbox
from stepvideo.pipes.ranges import Ranges
from stepvideo.pipes.transport import Event, Hub, Peer


@dataclass(eq=False)
class _Link:
    """A connection to a consumer. seat and group are set once it has answered."""

    member: Member
    peer: Peer
    heard: float
    group: Group | None = None
    seat: Seat | None = None


class Sender:
    """outbox: what is owed, under `lock`, which is notified when there may be room; fail: is told why this stopped."""

    def __init__(
        self,
        outbox: Outbox,
        lock: threading.Condition,
        hub: Hub,
        hello: dict[str, object],
        config: PipeConfig,
        fail: Callable[[PipeError], None],
    ) -> None:
        self._outbox, self._lock, self._hub, self._config, self._fail = outbox, lock, hub, config, fail
        credentials = {"version": wire.VERSION, "token": keys.load(config).token}
        self._hello = wire.encode({**hello, **credentials, "frame_bytes": config.frame_bytes})
        self._wanted: list[Member] = []
        self._finished: list[Member] = []  # consumers' last words
        self._served: set[str] = set()  # instances that let us in, and whose last words we have not read
        self._links: dict[Peer, _Link] = {}
        self._tried: dict[str, float] = {}  # by instance: not before this time again
        self._next_beat = self._next_look = self._turned = 0.0
        self._closing = False
        self._first: set[str] | None = None  # instances that were there when we came and have not answered
        self.refused = 0  # connections given up because of what was said on them
        self.told = ""  # why a consumer let us not in, or left
        self._thread = threading.Thread(target=self._run, name="pipes-sender", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def see(self, members: list[Member]) -> None:
        """Who is at the pipe now; from any thread."""
        self._wanted = [m for m in members if m.role == CONSUMER and not m.finished]
        self._finished = [m for m in members if m.finished]
        if self._first is None:
            self._first = {m.instance for m in self._wanted}
        self._next_look = 0.0
        self._hub.wake()

    @property
    def greeted(self) -> bool:
        """Whether all who were there at the start have answered, or cannot."""
        return self._first is not None and not self._first

    def wake(self) -> None:
        self._hub.wake()

    def close(self) -> None:
        self._closing = True
        self._hub.wake()
        self._thread.join()

    def give_up(self, group: Group) -> None:
        """Tell a job that it was too slow. The caller holds the lock; this thread sends."""
        for link in self._links.values():
            if link.group is group:
                self._tried[link.member.instance] = float("inf")
        group.close()
        self._next_look = 0.0

    def _run(self) -> None:
        try:
            while not self._closing:
                self._turn()
        except PipeError as e:
            self._fail(e)
        finally:
            for peer in self._links:
                self._hub.send(peer, wire.BYE, wire.encode({"reason": "closed"}))
            self._hub.close()

    def _turn(self) -> None:
        now = time.monotonic()
        if now - self._turned > self._config.heartbeat_s:  # we slept, and the answers wait unread
            for link in self._links.values():
                link.heard = now
        self._turned = now
        for event in self._hub.receive(self._config.heartbeat_s / 4):
            link = self._links.get(event.peer)
            if link is not None:
                link.heard = time.monotonic()
                self._hear(link, event)
        self._turned = now = time.monotonic()
        if now >= self._next_look:
            self._next_look = now + self._config.heartbeat_s / 4
            self._look(now)
        if now >= self._next_beat:
            self._next_beat = now + self._config.heartbeat_s / 2
            self._beat(now)
        self._offer()

    def _hear(self, link: _Link, event: Event) -> None:
        try:
            self._obey(link, event.kind, wire.decode(event.body))
        except WireError:
            self.refused += 1
            self._hang_up(link, "not understood")

    def _obey(self, link: _Link, kind: bytes, message: dict) -> None:
        if kind == wire.BYE:
            return self._left(link, message)
        if kind == wire.WELCOME and link.seat is None:
            return self._welcome(link, message)
        if link.seat is None or link.group is None or kind not in (wire.GRANT, wire.ACK, wire.FREE):
            raise WireError("out of turn")
        now, free, item, others = time.monotonic(), message.get("free"), None, []
        if type(free) is not int:
            raise WireError("free is not a number")
        with self._lock:
            link.seat.tell(free, wire.integer(message, "seen"))
            if kind == wire.ACK:
                others = self._outbox.acknowledge(link.group, link.seat, wire.integers(message, "seqs"), now)
                self._lock.notify_all()
            elif kind == wire.GRANT:
                item = self._outbox.grant(link.group, link.seat, wire.integer(message, "seq"), now)
        self._revoke(others)
        if item is not None:
            self._hub.send_payload(link.peer, item.payload.frames())
        elif kind == wire.GRANT:  # by now another's: its bytes will not come
            self._revoke([(link.seat, message["seq"])])

    def _welcome(self, link: _Link, message: dict) -> None:
        capacity, done = wire.integer(message, "capacity"), Ranges.checked(message.get("done"))
        held = wire.integers(message, "held")
        with self._lock:
            group = self._outbox.group(link.member.job, link.member.policy)
            link.group, link.seat = group, Seat(link.member.rank, capacity, wire.integer(message, "free"))
            self._served.add(link.member.instance)
            revoked = group.join(link.seat, done, held)
            self._lock.notify_all()
        self._answered(link.member)
        self._revoke(revoked)

    def _answered(self, member: Member) -> None:
        if self._first:
            self._first.discard(member.instance)
            with self._lock:
                self._lock.notify_all()

    def _left(self, link: _Link, message: dict) -> None:
        """A consumer says why it leaves, or why it does not let us in."""
        self._tried[link.member.instance] = time.monotonic() + 4 * self._config.heartbeat_s
        self.told = str(message.get("reason", ""))[:200]
        self._drop(link)
        if message.get("finished") and link.group is not None:
            self._finish(link.group, link.member)
        if message.get("replaced"):
            raise Replaced(self.told)

    def _finish(self, group: Group, left: Member) -> None:
        """A consumer wants nothing more: its job neither, if it was the last."""
        others = any(m.job == left.job and m.instance != left.instance for m in self._wanted)
        with self._lock:
            if not others and not group.seats:
                group.close()
                self._lock.notify_all()

    def _read_last_words(self, linked: set[str]) -> None:
        """Of consumers that left while their connection was broken, so that no farewell came on it."""
        for m in self._finished:
            if m.instance in self._served and m.instance not in linked:
                self._served.discard(m.instance)
                self._finish(self._outbox.groups[m.job], m)

    def _revoke(self, those: list[tuple[Seat, int]]) -> None:
        for seat, seq in those:
            peer = next((p for p, link in self._links.items() if link.seat is seat), None)
            if peer is not None:
                self._hub.send(peer, wire.REVOKE, wire.encode({"seqs": [seq]}))

    def _look(self, now: float) -> None:
        """Connect to those who came, leave those who fell silent or were given up."""
        wanted = {m.instance: m for m in self._wanted}
        names = {(m.job, m.name): m.instance for m in self._wanted}
        for link in list(self._links.values()):
            m = link.member
            if now - link.heard > 2 * self._config.heartbeat_s:
                self._hang_up(link, "silent")
            elif names.get((m.job, m.name), m.instance) != m.instance:
                self._hang_up(link, "replaced")
            elif self._tried.get(m.instance) == float("inf"):
                self._hang_up(link, "too slow", too_slow=True)
        linked = {link.member.instance for link in self._links.values()}
        self._read_last_words(linked)
        self._tried = {k: t for k, t in self._tried.items() if k in wanted or k in linked}
        for instance in wanted.keys() - linked:
            if now >= self._tried.get(instance, 0.0):
                self._tried[instance] = now + self._config.heartbeat_s
                self._connect(wanted[instance], now)
        with self._lock:
            if self._outbox.expire(now, self._config.rejoin_s):
                self._lock.notify_all()

    def _connect(self, member: Member, now: float) -> None:
        try:
            peer = self._hub.connect(member.address)
        except PipeError:
            self.refused += 1
            return self._answered(member)
        self._links[peer] = _Link(member, peer, now)
        self._hub.send(peer, wire.HELLO, self._hello)

    def _hang_up(self, link: _Link, reason: str, **more: bool) -> None:
        self._hub.send(link.peer, wire.BYE, wire.encode({"reason": reason, **more}))
        self._drop(link)

    def _drop(self, link: _Link) -> None:
        self._answered(link.member)
        del self._links[link.peer]
        self._hub.disconnect(link.peer)
        with self._lock:
            if link.group is not None and link.seat in link.group.seats:
                link.group.leave(link.seat, time.monotonic())

    def _beat(self, now: float) -> None:
        for link in self._links.values():
            if link.group is not None:
                with self._lock:
                    floor = link.group.floor
                self._hub.send(link.peer, wire.PING, wire.encode({"floor": floor}))

    def _offer(self) -> None:
        with self._lock:
            offers = [(seat, item) for g in self._outbox.present for seat, item in g.assign()]
        if offers:
            peers = {id(link.seat): link.peer for link in self._links.values()}
            for seat, item in offers:
                self._hub.send(peers[id(seat)], wire.OFFER, item.header)
