"""What a producer owes to one job: which items wait, which rank has which, what the job may still take. No I/O.

Every job of a pipe has a group of its own, and nothing here knows of another: that is the isolation of a broadcast.
At all times produced = acknowledged + in flight + dropped; `discrepancy` counts it anew from the lists.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

from stepvideo.pipes.config import BLOCK
from stepvideo.pipes.payload import Payload
from stepvideo.pipes.ranges import Ranges

MAX_ITEMS = 4096  # in flight for a job; of tiny items the descriptions are what takes memory


@dataclass(eq=False)
class Outgoing:
    """An item that some job has not acknowledged. nbytes: what it takes at a consumer; born: s, when it was sent."""

    seq: int
    rank: int | None
    nbytes: int
    header: bytes
    payload: Payload
    born: float


@dataclass(eq=False)
class Seat:
    """A consumer, as a producer sees it. free: bytes, as it said after its first `seen` offers of ours."""

    rank: int
    capacity: int
    free: int
    items: dict[int, Outgoing] = field(default_factory=dict)
    offered: int = 0
    given: int = 0  # bytes, over all time
    unseen: deque[int] = field(default_factory=deque)  # bytes of the offers after those that it has seen

    def tell(self, free: int, seen: int) -> None:
        """It has `free` bytes and had then seen so many offers."""
        self.free = free
        while self.unseen and self.offered - len(self.unseen) < seen:
            self.unseen.popleft()

    @property
    def room(self) -> int:
        return self.free - sum(self.unseen)

    def offer(self, item: Outgoing) -> None:
        self.items[item.seq] = item
        self.offered, self.given = self.offered + 1, self.given + item.nbytes
        self.unseen.append(item.nbytes)


class Group:
    """One job at one producer."""

    def __init__(self, job: str, window_bytes: int, policy: str = BLOCK) -> None:
        self.job, self.window_bytes, self.policy = job, window_bytes, policy
        self.pending: dict[int, Outgoing] = {}  # in order of seq
        self.seats: list[Seat] = []
        self.done = Ranges()  # acknowledged, in this life and, if the epoch goes on, before
        self.next_seq = 0
        self.present, self.empty_since = False, 0.0
        self.produced = self.acked = self.dropped = 0
        self.produced_bytes = self.acked_bytes = self.dropped_bytes = 0

    @property
    def in_flight(self) -> int:
        return len(self.pending) + sum(len(s.items) for s in self.seats)

    @property
    def in_flight_bytes(self) -> int:
        return self.produced_bytes - self.acked_bytes - self.dropped_bytes

    @property
    def discrepancy(self) -> int:
        """Items, and bytes if they differ, that are unaccounted for. Always 0."""
        items = self.produced - self.acked - self.dropped - self.in_flight
        held = sum(i.nbytes for i in self.pending.values()) + sum(
            i.nbytes for s in self.seats for i in s.items.values()
        )
        return abs(items) + abs(self.in_flight_bytes - held)

    @property
    def floor(self) -> int:
        """Every smaller number is settled: acknowledged, or will never come."""
        return min([self.next_seq, *self.pending, *(n for s in self.seats for n in s.items)])

    def fits(self, nbytes: int) -> bool:
        return self.in_flight_bytes + nbytes <= self.window_bytes and self.in_flight < MAX_ITEMS

    def put(self, item: Outgoing) -> None:
        """Take an item on, unless the job used it in an earlier life of the producer."""
        self.next_seq = max(self.next_seq, item.seq + 1)
        if item.seq not in self.done:
            self.pending[item.seq] = item
            self.produced, self.produced_bytes = self.produced + 1, self.produced_bytes + item.nbytes

    def assign(self) -> list[tuple[Seat, Outgoing]]:
        """Spray: each waiting item goes to the seat with most room that may have it, if it has room enough."""
        found, full = [], set()
        for item in list(self.pending.values()):
            if item.rank in full:  # those behind it wait too, so that a rank's items stay in order
                continue
            seats = [s for s in self.seats if item.rank in (None, s.rank)]
            best = max(seats, key=lambda s: (s.room, -s.given, -s.rank), default=None)
            if best is None or best.room < item.nbytes:
                full.add(item.rank)
                continue
            best.offer(self.pending.pop(item.seq))
            found.append((best, item))
        return found

    def acknowledge(self, seat: Seat, seqs: Iterable[int]) -> list[tuple[Seat, int]]:
        """These were used. Returns who else has one of them, given to him while this seat was thought dead."""
        others = []
        for seq in seqs:
            owner = next((s for s in (seat, *self.seats) if seq in s.items), None)
            item = owner.items.pop(seq) if owner else self.pending.pop(seq, None)
            if item is None:
                continue  # twice acknowledged, or dropped
            if owner not in (None, seat):
                others.append((owner, seq))
            self.acked, self.acked_bytes = self.acked + 1, self.acked_bytes + item.nbytes
            self.done.add(seq)
        return others

    def join(self, seat: Seat, done: Ranges, held: Iterable[int]) -> list[tuple[Seat, int]]:
        """A consumer is there; it used `done` and still has `held`. Returns what must be taken from whom."""
        self.done.update(done)
        self.seats.append(seat)
        self.present = True
        mine = [*self.pending, *(n for s in self.seats for n in s.items)]
        revoked = self.acknowledge(seat, [n for n in mine if n in done])
        for seq in held:
            item = self.pending.pop(seq, None)
            if item is None:
                revoked.append((seat, seq))
            else:
                seat.items[seq] = item
        return revoked

    def leave(self, seat: Seat, now: float) -> None:
        """A consumer is gone: what it did not acknowledge goes to others, before what is younger."""
        self.seats.remove(seat)
        self.pending = dict(sorted({**self.pending, **seat.items}.items()))
        seat.items = {}
        if not self.seats:
            self.empty_since = now

    def drop_oldest(self, nbytes: int) -> None:
        """Make room for so much by giving up what no consumer was offered yet, oldest first."""
        while self.pending and not self.fits(nbytes):
            self._drop(self.pending.pop(next(iter(self.pending))))

    def refuse(self, item: Outgoing) -> None:
        """Count an item as dropped that finds no room."""
        self.next_seq = max(self.next_seq, item.seq + 1)
        self.produced, self.produced_bytes = self.produced + 1, self.produced_bytes + item.nbytes
        self._drop(item)

    def close(self) -> None:
        """The job is given up: everything in flight is dropped."""
        for item in [*self.pending.values(), *(i for s in self.seats for i in s.items.values())]:
            self._drop(item)
        self.pending, self.present = {}, False
        for seat in self.seats:
            seat.items = {}
        self.seats = []

    def _drop(self, item: Outgoing) -> None:
        self.dropped, self.dropped_bytes = self.dropped + 1, self.dropped_bytes + item.nbytes
