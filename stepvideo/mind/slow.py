"""Slow nodes of a running training, by what its ranks tell of their steps (report §6.4, §6.5).

    slow = SlowNodes(store / "_telemetry", "t2vi_192p/3f…", since=job.starts)
    for node, finding in slow.poll().items(): ...                    # every few seconds

Segments are read while they are written, each byte once, whether somebody makes Parquet of them or not. The verdict is
telemetry's streaming test (`anomalies.Watch`). Nobody is blamed for what it cannot tell: a group of ranks on several
nodes, waits for data (they go with the samples, not with the node), and pauses such as checkpoints.
"""

from __future__ import annotations

import contextlib
import os
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from stepvideo.errors import StepVideoError
from stepvideo.mind.classify import CLOCK_S, QUOTED, Finding
from stepvideo.telemetry.anomalies import Anomaly, Bars, Watch
from stepvideo.telemetry.frames import Frame, decode, frames
from stepvideo.telemetry.places import Layout, Place
from stepvideo.telemetry.sections import DATA_WAIT, STEP, label, pause
from stepvideo.telemetry.segments import FOLDER

MOST = 32 << 20  # bytes that are read in a round, and a segment; the rest is for the next one
BEHIND = 2  # steps that a device's spans may come after the host's
QUIET = 15  # rounds of the others after which nobody waits for a rank; segments show late on some file systems
DEGREES = ("tensor", "ulysses")

Identity = dict[str, Any]


@dataclass
class _Segment:
    """One that is read. identity: empty as long as its first frame is not whole."""

    identity: Identity
    offset: int = 0
    over: bool = False


class Tail:
    """New frames of a run's segments, each once, whatever a segment is called meanwhile."""

    def __init__(self, folder: Path, run: str, since: float) -> None:
        """since: seconds since 1970; segments that were opened before are not read."""
        self.folder, self.run, self.since = folder, run, since - CLOCK_S
        self._segments: dict[str, _Segment] = {}

    def new(self) -> Iterator[tuple[Identity, Frame]]:
        """By rank, in the order in which they were written. Raises OSError."""
        with contextlib.suppress(FileNotFoundError), os.scandir(self.folder) as entries:
            listed = {e.name.partition(".")[0]: Path(e.path) for e in entries if e.name.endswith((".open", ".seg"))}
            self._segments = {name: self._segments.get(name) or _Segment({}) for name in listed}
            left = MOST
            for name, path in sorted(listed.items()):
                segment = self._segments[name]
                if not segment.over and left > 0:
                    before = segment.offset
                    with contextlib.suppress(FileNotFoundError):  # renamed, or shipped: the next round
                        yield from self._read(segment, path)
                    left -= segment.offset - before

    def _read(self, segment: _Segment, path: Path) -> Iterator[tuple[Identity, Frame]]:
        with path.open("rb") as f:
            about = os.fstat(f.fileno())
            closed = path.suffix == ".seg"
            if closed and about.st_mtime < self.since:
                segment.over = True
                return
            f.seek(segment.offset)
            data = f.read()
        start = segment.offset
        for frame in frames(data):
            segment.offset = start + frame.end
            if not segment.identity:
                segment.identity = frame.head["identity"] | {"opened_ns": frame.head["opened_ns"]}
                old = segment.identity["opened_ns"] < self.since * 1e9
                if old or segment.identity["run"] != self.run:
                    segment.over = True
                    return
            else:
                yield segment.identity, frame
        segment.over = closed


class SlowNodes:
    """Of one training. A step counts once all ranks have told of it that tell anything."""

    def __init__(self, folder: Path, run: str, since: float = 0.0, bars: Bars | None = None) -> None:
        """folder: of telemetry. since: s since 1970, when the attempt began."""
        self.folder, self.run, self.bars = folder, run, bars
        self._tail = Tail(folder / FOLDER, run, since)
        self._life: Identity = {}
        self._begin({})

    def _begin(self, life: Identity) -> None:
        self._life = life
        self._nodes: dict[int, str] = {}
        self._degrees: dict[str, int] = {}
        self._reached: dict[int, int] = {}  # rank: its last step
        self._round = 0  # in which something came
        self._heard: dict[int, int] = {}  # rank: round
        self._steps: defaultdict[int, dict[str, dict[int, float]]] = defaultdict(dict)  # section, rank: seconds
        self._done = 0
        self._watch: Watch | None = None
        self._found: dict[Place, Anomaly] = {}

    def poll(self) -> dict[str, Finding]:
        """{node: SLOW_NODE} of the nodes that are slow now. Raises OSError, StepVideoError."""
        self._round += 1
        for identity, frame in self._tail.new():
            if self._is_newest(identity):
                self._heard[identity["rank"]] = self._round
                self._take(identity, frame)
        if self._round in self._heard.values():
            self._advance()
        else:
            self._round -= 1
        return self._findings()

    def _is_newest(self, identity: Identity) -> bool:
        """Of the attempt that is followed; a later one, or another stage of the run, begins anew."""
        life = self._life
        if life and (identity["stage"], identity["attempt"]) == (life["stage"], life["attempt"]):
            return True
        unit = "attempt" if life and identity["stage"] == life["stage"] else "opened_ns"
        if life and identity[unit] < life[unit]:
            return False
        self._begin(identity)
        return True

    def _take(self, identity: Identity, frame: Frame) -> None:
        rank, table = identity["rank"], frame.head["table"]
        if rank not in self._nodes:
            self._nodes[rank], self._watch = identity["node"], None
        if table == "counter" and len(self._degrees) < len(DEGREES):
            told = decode(frame, identity)
            self._degree(dict(zip(told["name"].to_pylist(), told["value"].to_pylist())))
        if table != "span":
            return
        spans = decode(frame, identity)
        columns = (spans[name].to_pylist() for name in ("step", "name", "parent", "duration_ns"))
        for step, name, parent, ns in zip(*columns):
            if step > self._done:
                of_rank = self._steps[step].setdefault(label(name, parent), {})
                of_rank[rank] = of_rank.get(rank, 0.0) + ns / 1e9
            if name == STEP:
                self._reached[rank] = max(self._reached.get(rank, 0), step)

    def _degree(self, told: dict[str, float]) -> None:
        self._degrees |= {name: int(told[f"parallel.{name}"]) for name in DEGREES if f"parallel.{name}" in told}

    def _advance(self) -> None:
        if not self._know_degrees():
            self._forget(max(self._reached.values(), default=0))
            return
        last = min(self._reached.get(rank, 0) for rank, n in self._heard.items() if self._round - n < QUIET) - BEHIND
        if not self._done:
            self._forget(min(self._steps, default=0))  # the first step warms up
        for step in sorted(s for s in self._steps if s <= last):
            self._feed(step, self._steps.pop(step))
            self._done = step

    def _forget(self, last: int) -> None:
        """What is known of steps up to this one."""
        for step in [s for s in self._steps if s <= last]:
            del self._steps[step]
        self._done = max(self._done, last)

    def _know_degrees(self) -> bool:
        """Told at the start of an attempt; who comes later finds them in Parquet."""
        if len(self._degrees) < len(DEGREES):
            with contextlib.suppress(StepVideoError, ImportError):
                from stepvideo.telemetry.views import open_views

                query = "SELECT name, arg_max(value, attempt) FROM staged_counter WHERE step = 0 GROUP BY name"
                with open_views(self.folder, self.run, self._life["stage"], threads=1) as views:
                    self._degree(dict(views.sql(query)))
        return len(self._degrees) == len(DEGREES)

    def _feed(self, step: int, sections: dict[str, dict[int, float]]) -> None:
        if self._watch is None:
            self._watch, self._found = Watch(Layout(dict(self._nodes), **self._degrees), self.bars), {}
        watch = self._watch
        seconds = {
            name: np.array([of_rank.get(rank, np.nan) for rank in watch.ranks])
            for name, of_rank in sections.items()
            if name != DATA_WAIT and not pause(name)
        }
        self._found |= {a.where: a for a in watch.step(step, seconds) if a.kind.startswith("slow_")}
        self._found = {place: a for place, a in self._found.items() if place in watch.told}

    def _findings(self) -> dict[str, Finding]:
        if self._watch is None:
            return {}
        told = {place.nodes[0]: str(a)[:QUOTED] for place, a in self._found.items() if len(place.nodes) == 1}
        layout, unsure = self._watch.layout, set()
        for ranks in layout.by_group.values():  # that compute together: each may only wait for the other
            together = {layout.nodes[rank] for rank in ranks} & told.keys()
            unsure |= together if len(together) > 1 else set()
        return {node: Finding("SLOW_NODE", said, node) for node, said in told.items() if node not in unsure}
