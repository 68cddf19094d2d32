"""All anomalies of a run from its tables, at once: what the page lists and `stepvideo telemetry anomalies` prints."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from stepvideo.telemetry.anomalies import Anomaly, Bars, silent, slow
from stepvideo.telemetry.consumption import duplicates, mix
from stepvideo.telemetry.places import Place
from stepvideo.telemetry.progress import Progress
from stepvideo.telemetry.sequential import log_multinomial
from stepvideo.telemetry.throughput import Series, series
from stepvideo.telemetry.times import Cube, cube, slow_places, step_times
from stepvideo.telemetry.views import Views

SHOWN = 5  # spikes of a cause that are listed one by one
SOME = 20  # duplicates; in sets of a few clips a pack at the end of an epoch holds the beginning of the next
LAG_S = 60.0  # what a node's consumer may lag behind the others'


def findings(
    views: Views,
    bars: Bars | None = None,
    shares: Mapping[str, float] | None = None,
    found: Cube | None = None,
    progress: Series | None = None,
) -> list[Anomaly]:
    """Warnings first, then by step.

    Args:
        shares: {bucket: configured share of the samples}.
        found, progress: if they are there already.
    """
    bars = bars or Bars()
    found, progress = found or cube(views), progress or series(views)
    all_of = [
        *_slow(found, views, bars),
        *_silent(views, bars),
        *_progress(views, bars, progress),
        *of_data(views, bars, shares),
    ]
    return sorted(all_of, key=lambda a: (a.severity != "warning", a.since_step))


def _slow(found: Cube, views: Views, bars: Bars) -> list[Anomaly]:
    """One for each place: the section that costs most, the others by name."""
    places: dict[Place, list[Anomaly]] = {}
    for s in slow_places(found, views.layout, max(bars.margin, 0.05), slack=bars.slack):
        more = {"z": s.z, "lost_s_a_step": s.lost, "until_step": s.until}
        places.setdefault(s.place, []).append(slow(s.place, s.section, s.since, s.excess, more))
    merged = []
    for of_place in places.values():
        first, others = of_place[0], [a.evidence["section"] for a in of_place[1:]]
        since = min(a.since_step for a in of_place)
        evidence = {**first.evidence, **({"also": others} if others else {})}
        merged.append(replace(first, evidence=evidence, since_step=since))
    return merged


def _silent(views: Views, bars: Bars) -> list[Anomaly]:
    """Ranks that have stopped while most others went on, not merely shipped later."""
    rows = views.sql("SELECT rank, max(step), max(start_ns) FROM span WHERE step > 0 GROUP BY rank")
    if not rows:
        return []
    steps, times = np.array([r[1] for r in rows]), np.array([r[2] for r in rows])
    ahead, late = float(np.median(steps)), np.median(times) - times
    return [
        silent(views.layout, rank, int(last) + 1, int(ahead - last))
        for (rank, last, _), lag in zip(rows, late)
        if ahead - last >= bars.silent and lag > LAG_S * 1e9
    ]


def _progress(views: Views, bars: Bars, progress: Series) -> list[Anomaly]:
    """The job's steps one by one, as `Progress` sees them; spikes of one cause together if there are many."""
    watch, found = Progress(views.layout, bars), []
    predicted = dict(zip(progress.steps.tolist(), np.nan_to_num(progress.predicted).tolist()))
    low, high = views.steps
    medians = {step: seconds for step, seconds in step_times(views, low + 1, high, over="rank")}
    usual = float(np.median(progress.seconds)) if len(progress.seconds) else 0.0
    wild = [int(s) for s, t in zip(progress.steps, progress.seconds) if s > low and t > bars.spike * usual]
    whole = {step: seconds for w in wild for step, seconds in step_times(views, w, w)}
    for step, seconds in medians.items():
        found += watch.step(step, whole.get(step, seconds), predicted.get(step, 0.0))
    spikes: dict[str, list[Anomaly]] = {}
    for a in found:
        if a.kind == "spike":
            spikes.setdefault(f"{a.evidence['cause']} {a.evidence['section']}", []).append(a)
    kept = [a for a in found if a.kind != "spike"]
    for of_cause in spikes.values():
        first = of_cause[0]
        more = {"times": len(of_cause), "steps": [a.since_step for a in of_cause[:SHOWN]]}
        kept.append(replace(first, evidence={**first.evidence, **more}))
    return kept


def of_data(views: Views, bars: Bars, shares: Mapping[str, float] | None) -> list[Anomaly]:
    """Duplicates, and a mix that has left the configured one (or that of the first half)."""
    found, again = [], duplicates(views, most=1)
    if again["rate"] > bars.duplicates and again["repeated"] >= SOME:
        source = max(again["by_source"], key=lambda s: again["by_source"][s])
        evidence = {"rate": again["rate"], "repeated": again["repeated"], "example": again["worst"][0]["sample_id"]}
        text = "see `stepvideo telemetry data` for which; two shards with the same clips, or a restart that drew again"
        found.append(Anomaly("duplicates", Place("source", source or "unknown"), again["since"], evidence, text))
    first = 0 if shares else (sum(views.steps) + 1) // 2
    rows = [r for r in mix(views, shares, first) if r["expected"] is not None]
    counts = [r["draws"] * r["share"] for r in rows]
    if len(rows) < 2 or log_multinomial(counts, [r["expected"] for r in rows]) < -np.log(bars.alpha):
        return found
    worst = max(rows, key=lambda r: abs(r["share"] - r["expected"]))
    if abs(worst["share"] - worst["expected"]) > bars.drift:
        evidence = {"share": worst["share"], "expected": worst["expected"], "draws": worst["draws"]}
        text = "a bucket has run out of clips or is drawn by other weights: compare with the buckets of the config"
        found.append(Anomaly("mix_drift", Place("bucket", worst["bucket"]), max(first, views.steps[0]), evidence, text))
    return found
