"""Steps of a run as they arrive in its tables, for those who watch it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from stepvideo.telemetry.anomalies import Anomaly, Bars, Watch
from stepvideo.telemetry.findings import of_data
from stepvideo.telemetry.places import Place
from stepvideo.telemetry.progress import Progress
from stepvideo.telemetry.sections import STEP
from stepvideo.telemetry.throughput import PREDICTED
from stepvideo.telemetry.times import step_times
from stepvideo.telemetry.views import Views, open_views

LATE = 25  # steps that the slowest node's records may lag behind; who is further behind is absent
GROWN = 1.2  # times as many steps as when the data were looked at last


class Follower:
    """What is new in a telemetry folder: `poll` gives the anomalies of steps that have come since the last one.

    The tests go on from poll to poll and start over when a run or an attempt begins. What was consumed is looked at as
    a whole whenever it has grown by a fifth.

    Args:
        shares: {bucket: configured share of the samples}.
    """

    def __init__(
        self,
        folder: Path,
        run: str = "",
        stage: str = "",
        bars: Bars | None = None,
        shares: Mapping[str, float] | None = None,
    ) -> None:
        self.folder, self.run, self.stage, self.bars, self.shares = folder, run, stage, bars or Bars(), shares
        self.watched: tuple[object, ...] = ()
        self.done = self.looked = 0
        self.told: set[tuple[str, Place]] = set()

    def poll(self) -> list[Anomaly]:
        """Raises StepVideoError when there is nothing to read."""
        with open_views(self.folder, self.run, self.stage) as views:
            watched = views.run, views.stage, max(views.attempts, default=0), views.layout
            if watched != self.watched:
                self._begin(views, same=watched[:2] == self.watched[:2])
                self.watched = watched
            last = self._complete(views)
            predicted = dict(
                views.sql(
                    "SELECT step, avg(value) FROM counter WHERE name = ? AND step > ? GROUP BY step",
                    [PREDICTED, self.done],
                )
            )
            found: list[Anomaly] = []
            for step, seconds in step_times(views, self.done + 1, last):
                found += self.ranks.step(step, seconds)
                found += self.progress.step(step, seconds, predicted.get(step, 0.0))
            self.done = max(self.done, last)
            return found + self._data(views)

    def _begin(self, views: Views, same: bool) -> None:
        """same: another attempt at what was watched."""
        self.ranks, self.progress = Watch(views.layout, self.bars), Progress(views.layout, self.bars)
        if not same:
            self.done = self.looked = 0
            self.told.clear()
        resumed = min((end for end in views.attempts.values() if end <= self.done), default=self.done + 1)
        self.done = max(resumed - 1, views.steps[0])  # the first step warms up

    def _data(self, views: Views) -> list[Anomaly]:
        """What was not told yet."""
        if self.done < GROWN * self.looked or self.done == self.looked:
            return []
        self.looked = self.done
        found = [a for a in of_data(views, self.bars, self.shares) if (a.kind, a.where) not in self.told]
        self.told.update((a.kind, a.where) for a in found)
        return found

    def _complete(self, views: Views) -> int:
        """The last step of which every rank has told, or nobody will any more."""
        reached = [r[0] for r in views.sql("SELECT max(step) FROM span WHERE name = ? GROUP BY rank", [STEP])]
        if not reached:
            return self.done
        return max(min(reached), max(reached) - LATE)
