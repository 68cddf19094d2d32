"""All that a producer owes, to every job, and what of it is measured. No I/O; whoever calls holds the lock."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from stepvideo.pipes.config import BLOCK, DISCONNECT
from stepvideo.pipes.group import Group, Outgoing, Seat
from stepvideo.pipes.metrics import Latency, Rates


class _Measured:
    """Of one job. queue: from send to the grant of a consumer; turnaround: from send to its acknowledgement."""

    def __init__(self) -> None:
        self.queue, self.turnaround, self.rates = Latency(), Latency(), Rates()
        self.blocked_s = 0.0


class Outbox:
    """jobs: are present from the start, `now`."""

    def __init__(self, window_bytes: int, policy: str, jobs: Iterable[str] = (), now: float = 0.0) -> None:
        self._window_bytes, self._policy = window_bytes, policy
        self.groups: dict[str, Group] = {}
        self._measured: dict[str, _Measured] = {}
        for job in jobs:
            group = self.group(job, policy)
            group.present, group.empty_since = True, now

    @property
    def present(self) -> list[Group]:
        return [g for g in self.groups.values() if g.present]

    def group(self, job: str, policy: str) -> Group:
        """The job's group, made if it is new; `policy` if the job chose one."""
        if job not in self.groups:
            self.groups[job], self._measured[job] = Group(job, self._window_bytes), _Measured()
        self.groups[job].policy = policy or self._policy
        return self.groups[job]

    def blocking(self, item: Outgoing) -> list[str]:
        """Jobs for which an item has to wait."""
        return [g.job for g in self.present if g.policy == BLOCK and not g.fits(item.nbytes) and item.seq not in g.done]

    def blocked(self, jobs: Iterable[str], seconds: float) -> None:
        for job in jobs:
            self._measured[job].blocked_s += seconds

    def put(self, item: Outgoing) -> list[Group]:
        """Give an item to every job. Returns those that are given up for it."""
        left = []
        for g in self.present:
            if not g.fits(item.nbytes) and item.seq not in g.done:
                if g.policy == DISCONNECT:
                    g.refuse(item)
                    left.append(g)
                    continue
                g.drop_oldest(item.nbytes)
                if not g.fits(item.nbytes):
                    g.refuse(item)
                    continue
            g.put(item)
        return left

    def grant(self, group: Group, seat: Seat, seq: int, now: float) -> Outgoing | None:
        """A consumer has memory for an item; None if it is not its item any more."""
        item = seat.items.get(seq)
        if item is not None:
            self._measured[group.job].queue.add(now - item.born)
        return item

    def acknowledge(self, group: Group, seat: Seat, seqs: list[int], now: float) -> list[tuple[Seat, int]]:
        for seq in seqs:
            if seq in seat.items:
                self._measured[group.job].turnaround.add(now - seat.items[seq].born)
        return group.acknowledge(seat, seqs)

    def expire(self, now: float, rejoin_s: float) -> bool:
        """Give up jobs that nobody came back to; whether there were any."""
        gone = [g for g in self.present if not g.seats and now - g.empty_since > rejoin_s]
        for g in gone:
            g.close()
        return bool(gone)

    def close(self) -> None:
        for g in self.present:
            g.close()

    def metrics(self, now: float) -> dict[str, dict[str, Any]]:
        """By job."""
        return {job: self._metrics(g, self._measured[job], now) for job, g in self.groups.items()}

    def _metrics(self, g: Group, measured: _Measured, now: float) -> dict[str, Any]:
        counters = {"produced": g.produced, "acked": g.acked, "dropped": g.dropped, "blocked_s": measured.blocked_s}
        counters |= {"produced_bytes": g.produced_bytes, "acked_bytes": g.acked_bytes, "dropped_bytes": g.dropped_bytes}
        return {
            **counters,
            **measured.rates.update(now, counters),
            "in_flight": g.in_flight,
            "in_flight_bytes": g.in_flight_bytes,
            "discrepancy": g.discrepancy,
            "present": g.present,
            "policy": g.policy,
            "consumers": len(g.seats),
            "queue_s": measured.queue.summary(),
            "turnaround_s": measured.turnaround.summary(),
        }
