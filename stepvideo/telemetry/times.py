"""Where the time goes: by section, by rank and over the steps.

Everything is answered from one pass over the spans, `cube`: for every section, rank and stretch of steps the mean
logarithm of durations (one wild pause in a stretch moves it little, and it needs no sorting) and their sum.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stepvideo.telemetry.anomalies import OWN, compared
from stepvideo.telemetry.places import Layout, Place, blame
from stepvideo.telemetry.sections import STEP, is_part, label, waits
from stepvideo.telemetry.views import Views

Array = NDArray[np.float64]
STRETCHES, QUICK = 100, 20  # of steps, at most; QUICK: enough to see who is slow
SHORTEST = 5  # stretches of a part of the run that is looked at by itself
FLOOR = 5e-3  # of a spread, in logs: healthy machines differ by as much
CHUNK = 64  # steps whose spans are read at once
EXACT_ROWS = 2_000_000  # percentiles of more spans than these are of every k-th step


@dataclass(frozen=True)
class Cube:
    """Durations by section, rank and stretch of steps; NaN or 0 where there is none.

    sections: names, those with most time first.
    starts: first step of each stretch; width: its steps.
    log: [sections, ranks, stretches] mean log of nanoseconds of one span.
    total: likewise, sum in nanoseconds. count: spans.
    """

    sections: tuple[str, ...]
    ranks: tuple[int, ...]
    starts: NDArray[np.int64]
    width: int
    log: Array
    total: Array
    count: Array

    def seconds(self, section: str) -> Array:
        """Of a step [ranks, stretches]: sum over what it did several times; NaN where a rank told nothing."""
        i = self.sections.index(section)
        return self.total[i] / 1e9 / np.where(self.count[i] > 0, self.steps, np.nan)

    @property
    def steps(self) -> Array:
        """Steps that a rank did in each stretch: those with a span `step`, or else its width."""
        if STEP in self.sections:
            return np.maximum(self.count[self.sections.index(STEP)], 1)
        return np.full(self.count.shape[1:], float(self.width))


def cube(views: Views, stretches: int = STRETCHES, first: int = 0, last: int = 0) -> Cube:
    """Of all steps, or of `first` to `last`, in at most so many stretches."""
    low, high = max(first, views.steps[0], 1), min(last or views.steps[1], views.steps[1])
    width = max(1, -(-(high - low + 1) // stretches))
    # Two strings as one number: a quarter less work than grouping by them.
    rows = views.arrays(
        f"SELECT any_value(name) AS name, any_value(parent) AS parent, rank, ((step - {low}) // {width})::INTEGER AS"
        " stretch, avg(ln(ns + 1)) AS log, sum(ns) AS total, count(*)::DOUBLE AS count FROM"
        " (SELECT *, duration_ns::DOUBLE AS ns, hash(name, parent) AS section FROM span)"
        f" WHERE step BETWEEN {low} AND {high} GROUP BY section, rank, stretch"
    )
    named = [label(n, p) for n, p in zip(rows["name"], rows["parent"])]
    names, which = np.unique(np.array(named, dtype=object), return_inverse=True)
    ranks, position = np.unique(rows["rank"], return_inverse=True)
    shape = (len(names), len(ranks), max(0, (high - low) // width + 1))
    at = (which, position, rows["stretch"])
    total, count, weighted = np.zeros(shape), np.zeros(shape), np.zeros(shape)
    np.add.at(total, at, rows["total"])
    np.add.at(count, at, rows["count"])
    np.add.at(weighted, at, rows["log"] * rows["count"])
    order = np.argsort(-total.sum((1, 2)), kind="stable")
    log = np.where(count > 0, weighted / np.maximum(count, 1), np.nan)
    return Cube(
        tuple(map(str, names[order])), tuple(map(int, ranks)), low + width * np.arange(shape[2]), width,
        log[order], total[order], count[order],
    )  # fmt: skip


def step_times(
    views: Views, first: int, last: int, over: str = ""
) -> Iterator[tuple[int, dict[str, NDArray[np.float64]]]]:
    """Every step from `first` to `last` with the seconds of each section on every rank, in the order of
    `views.layout.ranks`, NaN where a rank told nothing.

    Args:
        over: "rank" gives one value a section, the median of the ranks (of `step` the largest): little to read.
    """
    ranks = np.array(views.layout.ranks)
    small = over == "rank"
    query = (
        "SELECT step, rank, name, parent, sum(duration_ns) / 1e9 AS seconds FROM span"
        " WHERE step BETWEEN {} AND {} GROUP BY ALL"
    )
    if small:
        often = f"greatest(1, round(count(*) / {len(ranks)}))"  # times that a rank does it in a step
        query = (
            f"SELECT step, name, parent, if(name = '{STEP}', max(duration_ns), median(duration_ns) * {often}) / 1e9"
            " AS seconds FROM span WHERE step BETWEEN {} AND {} GROUP BY step, name, parent"
        )
    chunk = last - first + 1 if small else CHUNK
    for start in range(first, last + 1, max(1, chunk)):
        rows = views.arrays(query.format(start, min(start + chunk - 1, last)))
        steps, at_step = np.unique(rows["step"], return_inverse=True)
        at_rank = np.zeros(len(at_step), np.int64) if small else np.searchsorted(ranks, rows["rank"])
        names = np.array([label(n, p) for n, p in zip(rows["name"], rows["parent"])], dtype=object)
        tables = {}
        for name in dict.fromkeys(names):
            table, mine = np.full((len(steps), 1 if small else len(ranks)), np.nan), names == name
            table[at_step[mine], at_rank[mine]] = rows["seconds"][mine]
            tables[str(name)] = table
        for i, step in enumerate(steps):
            yield int(step), {name: t[i] for name, t in tables.items() if np.isfinite(t[i]).any()}


def relative(log: Array) -> Array:
    """log(time / median of the ranks in the same steps), [..., ranks, stretches]."""
    found = np.full(log.shape, np.nan)
    there = np.isfinite(log).any(-2)
    middle = np.nanquantile(np.moveaxis(log, -2, -1)[there], 0.5, axis=-1, method="inverted_cdf")
    np.moveaxis(found, -2, -1)[there] = np.moveaxis(log, -2, -1)[there] - middle[:, None]
    return found


@dataclass(frozen=True)
class Slow:
    """Somebody slower than the others. excess: log of its time over its peers'; z: in robust standard deviations of
    the peers; lost: seconds a step; since, until: first and last step."""

    place: Place
    section: str
    excess: float
    z: float
    lost: float
    since: int
    until: int

    @property
    def ratio(self) -> float:
        return float(np.exp(self.excess))


def slow_places(found: Cube, layout: Layout, margin: float = 0.05, z: float = 6.0, slack: float = 0.005) -> list[Slow]:
    """Ranks, nodes and groups that are slower than the others in a section, the costliest first.

    Each rank is held against the median of all ranks in the same steps. Its score is the median over the stretches of
    the run, or of any half, quarter or eighth of it: faults begin and end.

    Args:
        margin, z: a rank is slow if it exceeds both, z being in units of 1.4826 MAD of the ranks' scores.
        slack: share of a step that a slow section must cost.
    """
    times = {name: found.seconds(name) for name in found.sections}
    usual = float(np.nanmedian(times[STEP])) if STEP in times else 0.0
    judged: dict[str, tuple[Array, Array, float]] = {}  # relative times, deviation where slow (else 0), median seconds
    for name, seconds in compared(times).items():
        with np.errstate(divide="ignore", invalid="ignore"):
            excess = relative(found.log[found.sections.index(name)] if name in times else np.log(seconds))
        middle = float(np.nanmedian(seconds))
        least = max(np.log1p(margin), np.log1p(slack * usual / middle) if middle > 0 else np.inf)
        judged[name] = excess, _deviation(excess, least, z), middle
    verdicts, ranks = [], np.array(found.ranks)
    for name, (excess, deviation, middle) in judged.items():
        slow = deviation > 0
        if name.endswith(OWN) or not slow.any():
            continue
        alone = slow & (judged[name + OWN][1] > 0) if name + OWN in judged else slow & False
        for place in blame(ranks[slow].tolist(), layout, ranks[alone].tolist()):
            at = np.isin(ranks, place.ranks)
            over = np.nan_to_num(np.nanmedian(excess[at], axis=0))
            first, last = _worst(over - np.log1p(margin) / 2)
            mean = float(np.median(over[first : last + 1]))
            since, until = int(found.starts[first]), int(found.starts[last]) + found.width - 1
            lost = middle * float(np.expm1(mean))
            verdicts.append(Slow(place, name, mean, float(np.max(deviation[at])), lost, since, until))
    return sorted(verdicts, key=lambda v: -v.lost)


def _deviation(excess: Array, least: float, z: float) -> Array:
    """Of each rank in units of the ranks' spread, in the part of the run where it is largest; 0 where it is no fault.

    Args:
        excess: [ranks, stretches]. least: log that a score must exceed.
    """
    count, worst = excess.shape[1], np.zeros(len(excess))
    for parts in (n for n in (1, 2, 4, 8) if n == 1 or count >= SHORTEST * n):
        for part in np.array_split(excess, parts, axis=1):
            some = np.isfinite(part).any(-1)
            if not some.any():
                continue
            score = np.full(len(part), np.nan)
            score[some] = np.nanmedian(part[some], axis=-1)
            spread = 1.4826 * np.nanmedian(np.abs(score - np.nanmedian(score))) + FLOOR
            with np.errstate(invalid="ignore"):
                slow = (score > least) & (score > z * spread)
            worst = np.where(slow, np.fmax(worst, score / spread), worst)
    return worst


def _worst(over: Array) -> tuple[int, int]:
    """First and last of the stretches whose sum is largest (Kadane)."""
    best, found, total, start = -np.inf, (0, 0), 0.0, 0
    for i, value in enumerate(over):
        if total <= 0:
            total, start = 0.0, i
        total += value
        if total > best:
            best, found = total, (start, i)
    return found


def breakdown(views: Views, found: Cube | None = None) -> list[dict[str, Any]]:
    """A row a section, those with most time first: seconds of a step on the mean rank, share of the step, percentiles
    of one span over ranks and steps in seconds, and whether it is waiting for others. `other` is what no span tells.

    Args:
        found: of all steps, if it is there already.
    """
    found = found or cube(views)
    if not found.sections:
        return []
    every = max(1, -(-int(found.count.sum()) // EXACT_ROWS))
    marks = {
        label(name, parent): [q / 1e9 for q in quantiles]
        for name, parent, quantiles in views.sql(
            "SELECT name, parent, quantile_cont(duration_ns, [0.5, 0.9, 0.99]) FROM span"
            f" WHERE step > 0 AND (step - {views.steps[0]}) % {every} = 0 GROUP BY name, parent"
        )
    }
    steps = float(found.steps.sum())
    table: list[dict[str, Any]] = []
    for section, total in zip(found.sections, found.total.sum((1, 2))):
        p50, p90, p99 = marks.get(section, (None, None, None))
        seconds = float(total) / 1e9 / steps
        table.append({"section": section, "seconds": seconds, "p50": p50, "p90": p90, "p99": p99,
                      "waiting": waits(section)})  # fmt: skip
    whole = next((r["seconds"] for r in table if r["section"] == STEP), 0.0)
    parts = sum(r["seconds"] for r in table if is_part(r["section"]))
    if whole > 1.001 * parts:
        table.append({"section": "other", "seconds": whole - parts, "waiting": False})
    for row in table:
        row["share"] = row["seconds"] / (whole or parts)
    return sorted(table, key=lambda r: -r["seconds"])
