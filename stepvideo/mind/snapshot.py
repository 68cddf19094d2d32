"""What agents have left in their folder, as the views of nodes that decisions are made from."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from statistics import mean, median
from typing import Any

from stepvideo.mind.classify import CLOCK_S, from_snapshot
from stepvideo.mind.signals import NodeView

AGENTS = "agents"  # in StepMind's folder
FRESH_S = 10.0  # a clock that was compared longer ago says nothing of how it and the observer's differ now


class Snapshots:
    """Reads snapshots. How old one is, is told by the observer's clock, from when its number changed: clocks differ."""

    def __init__(self, folder: Path) -> None:
        """folder: StepMind's."""
        self.folder = folder / AGENTS
        self._seen: dict[str, tuple[tuple[str, int], float]] = {}  # (agent, number), since when
        self._skew: dict[str, float] = {}  # s, of nodes whose number has changed since

    def read(self, node: str, now: float, wall: float) -> tuple[dict[str, Any], float]:
        """The snapshot and its age in s; ({}, inf) if no agent was ever seen at work there.

        Args:
            now: s, of a monotonic clock.
            wall: s since 1970, to compare the node's clock with.
        """
        try:
            snapshot = json.loads((self.folder / f"{node}.json").read_text())
            number = str(snapshot["agent"]), int(snapshot["seq"])
        except (OSError, ValueError, KeyError, TypeError):
            snapshot, number = {}, ("", -1)
        last = self._seen.get(node)
        if snapshot and (last is None or last[0] != number):
            if last is not None:
                self._skew[node] = snapshot.get("time", wall) - wall
            self._seen[node] = (number, now)
        if node not in self._skew:
            return {}, float("inf")
        if snapshot:
            snapshot.setdefault("clock_s", self._clock(node, now))
        return snapshot, now - self._seen[node][1]

    def _clock(self, node: str, now: float) -> float:
        """s before most clocks, the observer's among them; of two that differ nobody knows which one is wrong."""
        if abs(self._skew[node]) <= CLOCK_S:
            return self._skew[node]
        clocks = [0.0, *(skew for n, skew in self._skew.items() if now - self._seen[n][1] < FRESH_S)]
        return self._skew[node] - median(clocks) if len(clocks) > 2 else 0.0

    def view(self, node: str, job: str, now: float, wall: float) -> NodeView:
        """Of one job's node. A snapshot that is not new is no evidence of anything but of its age."""
        snapshot, age = self.read(node, now, wall)
        row: Mapping[str, Any] | None = snapshot.get("jobs", {}).get(job)
        if not snapshot:
            return NodeView(node, age)
        return NodeView(
            node,
            age,
            processes=row["processes"] if row else 0,
            stopped=bool(row and row["stopped"]),
            gauges={
                "compute": _compute(snapshot, row),
                "traffic": _traffic(snapshot),
                "storage": (row or {}).get("io"),
            },
            findings=tuple(from_snapshot(snapshot)),
        )


def _compute(snapshot: Mapping[str, Any], row: Mapping[str, Any] | None) -> float | None:
    """W of a GPU on average; without GPUs the job's CPU seconds a second."""
    power = [g["power"] for g in snapshot.get("gpus", ()) if "power" in g]
    return mean(power) if power else (row or {}).get("cpu")


def _traffic(snapshot: Mapping[str, Any]) -> float | None:
    """bytes/s over RDMA ports; without them over network interfaces."""
    ports = [p["traffic"] for p in snapshot.get("rdma", {}).values()]
    if ports:
        return sum(ports) if None not in ports else None
    return snapshot.get("network")
