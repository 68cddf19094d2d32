"""The accounts of both ends under any order of events: nothing is lost, nothing is forgotten, memory is bounded."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from stepvideo.pipes.config import BLOCK, DROP_OLDEST
from stepvideo.pipes.errors import WireError
from stepvideo.pipes.group import Group, Outgoing, Seat
from stepvideo.pipes.inbox import Inbox, Session
from stepvideo.pipes.ranges import Ranges
from stepvideo.pipes.wire import Header, TensorSpec

WINDOW, CAPACITY, MEMORY = 1000, 400, 40_960  # of a seat, of an inbox


class _Nothing:
    def frames(self):
        return iter(())


def outgoing(seq: int, nbytes: int, rank: int | None = None) -> Outgoing:
    return Outgoing(seq, rank, nbytes, b"", _Nothing(), 0.0)


class Spray(RuleBasedStateMachine):
    """A group with seats that come, take, acknowledge, die and come back; beside it a set of what should be true."""

    def __init__(self) -> None:
        super().__init__()
        self.group = Group("job", WINDOW)
        self.group.present = True
        self.seq, self.sent, self.used = 0, set(), set()
        self.memory: dict[int, set[int]] = {0: set(), 1: set(), 2: set()}  # what each rank used: survives it
        self.seats: dict[int, Seat] = {}
        self.at: dict[int, list[int]] = {}

    @rule(nbytes=st.integers(1, CAPACITY), rank=st.sampled_from([None, None, 0, 1, 2]), drop=st.booleans())
    def send(self, nbytes: int, rank: int | None, drop: bool) -> None:
        if drop:
            self.group.drop_oldest(nbytes)
        if self.group.fits(nbytes):
            self.group.put(outgoing(self.seq, nbytes, rank))
            self.sent.add(self.seq)
            self.seq += 1

    @rule()
    def spray(self) -> None:
        for seat, item in self.group.assign():
            assert item.rank in (None, seat.rank)
            rank = next(r for r, s in self.seats.items() if s is seat)
            self.at[rank].append(item.seq)
            assert seat.room >= 0, "no more than it said it has room for"

    @rule(rank=st.integers(0, 2), back=st.booleans())
    def come_or_go(self, rank: int, back: bool) -> None:
        if rank in self.seats:
            self.group.leave(self.seats.pop(rank), 0.0)
            return
        seat = self.seats[rank] = Seat(rank, CAPACITY, CAPACITY)
        held = [n for n in self.at.get(rank, []) if back]
        revoked = self.group.join(seat, Ranges([(n, n + 1) for n in self.memory[rank]]), held)
        self.at[rank] = list(seat.items)
        for other, seq in revoked:
            owner = next(r for r, s in self.seats.items() if s is other)
            self.at[owner] = [n for n in self.at[owner] if n != seq]

    @precondition(lambda self: any(self.at.get(r) for r in self.seats))
    @rule(data=st.data())
    def use(self, data: st.DataObject) -> None:
        rank = data.draw(st.sampled_from([r for r in self.seats if self.at.get(r)]))
        seq = data.draw(st.sampled_from(self.at[rank]))
        self.at[rank].remove(seq)
        self.memory[rank].add(seq)
        self.used.add(seq)
        if data.draw(st.booleans()):  # else the acknowledgement is lost, with the connection
            for other, n in self.group.acknowledge(self.seats[rank], [seq]):
                owner = next(r for r, s in self.seats.items() if s is other)
                self.at[owner].remove(n)
            free = CAPACITY - sum(i.nbytes for i in self.seats[rank].items.values())
            self.seats[rank].tell(free, self.seats[rank].offered)
        else:
            self.group.leave(self.seats.pop(rank), 0.0)

    @invariant()
    def nothing_is_lost(self) -> None:
        group = self.group
        assert group.discrepancy == 0
        assert group.produced == group.acked + group.in_flight + group.dropped == len(self.sent)
        assert group.in_flight_bytes <= WINDOW
        waiting = {*group.pending, *(n for s in group.seats for n in s.items)}
        assert len(waiting) == group.in_flight, "an item is in one place"
        assert all(n >= group.floor for n in waiting)
        assert {n for n in self.sent if n in group.done} <= self.used
        assert list(group.pending) == sorted(group.pending), "the oldest goes first"


TestSpray = Spray.TestCase
TestSpray.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


def test_spray_is_even_and_follows_free_memory() -> None:
    group = Group("job", 1 << 30)
    seats = [Seat(r, 1000, 1000) for r in range(4)]
    for seat in seats:
        group.join(seat, Ranges(), [])
    for n in range(20):
        group.put(outgoing(n, 100))
    group.assign()
    assert [len(s.items) for s in seats] == [5, 5, 5, 5]

    seats[2].tell(1000, seats[2].offered)  # it has used everything, the others nothing
    for n in range(20, 28):
        group.put(outgoing(n, 100))
    group.assign()
    assert [len(s.items) - 5 for s in seats] == [1, 1, 5, 1], "to whom has room, until all have as much"


def test_a_slow_job_drops_the_oldest_that_is_not_on_its_way() -> None:
    group = Group("job", 300, DROP_OLDEST)
    seat = Seat(0, 100, 100)
    group.join(seat, Ranges(), [])
    for n in range(5):
        group.drop_oldest(100)
        group.put(outgoing(n, 100))
        group.assign()
    assert list(seat.items) == [0] and list(group.pending) == [3, 4]
    assert (group.produced, group.dropped, group.in_flight, group.discrepancy) == (5, 2, 3, 0)


def test_a_late_acknowledgement_takes_the_item_from_whom_it_was_given_to() -> None:
    group = Group("job", 1000, BLOCK)
    first, second = Seat(0, 1000, 1000), Seat(1, 1000, 1000)
    group.join(first, Ranges(), [])
    group.put(outgoing(0, 10))
    group.assign()
    group.leave(first, 0.0)
    group.join(second, Ranges(), [])
    group.assign()
    assert list(second.items) == [0]
    again = Seat(0, 1000, 1000)
    assert group.join(again, Ranges([(0, 1)]), []) == [(second, 0)]
    assert (group.acked, group.in_flight) == (1, 0)


class Door(RuleBasedStateMachine):
    """An inbox with producers that offer, send, take back, die and come again."""

    def __init__(self) -> None:
        super().__init__()
        self.box = Inbox(MEMORY, lambda n: np.empty(n, np.uint8))
        self.seqs = {"a": 0, "b": 0}
        self.lives = 0

    def session(self, name: str) -> Session | None:
        return next((s for s in self.box.sessions.values() if s.producer == name), None)

    @rule(name=st.sampled_from(["a", "b"]))
    def connect_or_die(self, name: str) -> None:
        if (session := self.session(name)) is not None:
            self.box.close(session.peer)
            return
        self.lives += 1
        self.box.open(Session(self.lives, name, 1, f"{self.lives:09d}", 4096, 0.0))

    @rule(name=st.sampled_from(["a", "b"]), nbytes=st.integers(0, MEMORY), again=st.booleans())
    def offer(self, name: str, nbytes: int, again: bool) -> None:
        if (session := self.session(name)) is None:
            return
        seq = max(self.seqs[name] - 1, 0) if again else self.seqs[name]
        self.seqs[name] = max(self.seqs[name], seq + 1)
        header = Header(seq, (TensorSpec("x", "uint8", (nbytes,)),), {})
        if header.memory > MEMORY:
            with pytest.raises(WireError):
                self.box.offer(session, header)
            return
        used = seq in self.box.watermark.done(name, 1)
        assert self.box.offer(session, header) is not used

    @rule(name=st.sampled_from(["a", "b"]), frames=st.integers(1, 12))
    def bytes_come(self, name: str, frames: int) -> None:
        for item in self.box.grant(0.0):
            self.box.finish(self.box.sessions[item.peer], 0.0)
        if (session := self.session(name)) is None:
            return
        for _ in range(frames):
            view = self.box.place(session.peer)
            if view is None:
                with pytest.raises(WireError):
                    self.box.arrive(session, 1, None)
                return
            self.box.arrive(session, len(view), None)
            self.box.finish(session, 0.0)

    @precondition(lambda self: self.box.ready)
    @rule(ack=st.booleans())
    def take(self, ack: bool) -> None:
        item = self.box.ready.popleft()
        item.delivered = True
        if ack:
            assert self.box.acknowledge(item.key) is item
            assert self.box.acknowledge(item.key) is None

    @rule(name=st.sampled_from(["a", "b"]), data=st.data())
    def taken_back(self, name: str, data: st.DataObject) -> None:
        """Only what has not begun to come, or is here whole: `Sender` sends an item in one go."""
        if (session := self.session(name)) is None:
            return
        begun = [i.key[2] for i in session.transfers if i.arrived]
        seq = data.draw(st.integers(0, max(self.seqs[name], 1)))
        if seq not in begun:
            self.box.revoke(session, [seq])

    @invariant()
    def memory_is_bounded_and_counted(self) -> None:
        box = self.box
        assert 0 <= box.used <= MEMORY
        assert box.discrepancy == 0
        assert len({i.key for i in box.ready}) == len(box.ready), "an item is delivered once"
        assert all(i.key in box.held for i in box.ready)


TestDoor = Door.TestCase
TestDoor.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
