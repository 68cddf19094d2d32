"""What a pipe measures of itself, and who waits for whom (report §6.3, enhanced visibility). Standard library only."""

from __future__ import annotations

import math
from collections import defaultdict, deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from stepvideo.pipes.member import CONSUMER, PRODUCER, Member

WINDOW_S = 10.0  # over which rates and shares are taken
WAITS = 0.1  # share of the time from which one side is said to wait
_STEP = 2**0.25  # between bounds of a histogram: percentiles are within 19 %
_FIRST_S = 1e-6


class Latency:
    """A histogram of seconds in steps of 2^¼ from 1 µs on."""

    def __init__(self) -> None:
        self._counts: dict[int, int] = defaultdict(int)
        self.count, self.sum_s = 0, 0.0

    def add(self, seconds: float) -> None:
        self._counts[max(0, math.ceil(math.log(max(seconds, _FIRST_S) / _FIRST_S, _STEP)))] += 1
        self.count, self.sum_s = self.count + 1, self.sum_s + seconds

    def percentile(self, share: float) -> float:
        """The upper bound of the step in which this share of all lies; 0 of none."""
        left = share * self.count
        for step in sorted(self._counts):
            left -= self._counts[step]
            if left <= 0:
                return _FIRST_S * _STEP**step
        return 0.0

    def summary(self) -> dict[str, float]:
        """Seconds."""
        mean = self.sum_s / self.count if self.count else 0.0
        return {"mean": mean} | {f"p{p}": self.percentile(p / 100) for p in (50, 90, 99)}


class Rates:
    """Growth per second of counters, over about the last `WINDOW_S`."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, dict[str, float]]] = deque()

    def update(self, now: float, counters: Mapping[str, float]) -> dict[str, float]:
        """`NAME_per_s` of each counter, which is 0 before it was seen for the first time."""
        self._seen.append((now, dict(counters)))
        while len(self._seen) > 2 and self._seen[1][0] <= now - WINDOW_S:
            self._seen.popleft()
        start, old = self._seen[0]
        elapsed = now - start
        return {f"{k}_per_s": (v - old.get(k, 0)) / elapsed if elapsed > 0 else 0.0 for k, v in counters.items()}


@dataclass(frozen=True)
class Flow:
    """A pipe to one job. Rates in items a second; shares of the time, means over the members; `verdict` in words.

    produced, acked, in_flight, dropped: items, summed over producers; lost: what is not accounted for, at either end.
    """

    pipe: str
    job: str
    producers: int
    consumers: int
    produced: int
    acked: int
    in_flight: int
    dropped: int
    lost: int
    produced_per_s: float
    acked_per_s: float
    bytes_per_s: float
    blocked_share: float
    starved_share: float
    verdict: str


def who_waits(members: Iterable[Member]) -> list[Flow]:
    """One flow for each pipe and job, from what their members last said."""
    members = [m for m in members if not m.finished]
    jobs = {(m.pipe, m.job) for m in members if m.role == CONSUMER}
    jobs |= {(m.pipe, job) for m in members if m.role == PRODUCER for job in m.metrics.get("jobs", {})}
    return [_flow(pipe, job, [m for m in members if m.pipe == pipe]) for pipe, job in sorted(jobs)]


def _flow(pipe: str, job: str, members: list[Member]) -> Flow:
    sending = [m.metrics["jobs"][job] for m in members if m.role == PRODUCER and job in m.metrics.get("jobs", {})]
    taking = [m.metrics for m in members if m.role == CONSUMER and m.job == job]
    blocked, starved = _mean(sending, "blocked_s_per_s"), _mean(taking, "starved_s_per_s")
    counts = {k: int(_sum(sending, k)) for k in ("produced", "acked", "in_flight", "dropped")}
    return Flow(
        pipe,
        job,
        len(sending),
        len(taking),
        **counts,
        lost=int(_sum(sending, "discrepancy") + _sum(taking, "discrepancy")),
        produced_per_s=_sum(sending, "produced_per_s"),
        acked_per_s=_sum(sending, "acked_per_s"),
        bytes_per_s=_sum(taking, "received_bytes_per_s"),
        blocked_share=blocked,
        starved_share=starved,
        verdict=verdict(blocked, starved),
    )


def verdict(blocked: float, starved: float) -> str:
    """Who waits, of two shares of the time."""
    if blocked >= WAITS and starved >= WAITS:
        return "both wait: the network, or bursts"
    if blocked >= WAITS:
        return "producers wait for training"
    return "training waits for producers" if starved >= WAITS else "nobody waits"


def _sum(rows: list[dict[str, Any]], name: str) -> float:
    return sum(float(r.get(name, 0)) for r in rows)


def _mean(rows: list[dict[str, Any]], name: str) -> float:
    return _sum(rows, name) / len(rows) if rows else 0.0
