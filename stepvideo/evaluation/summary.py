"""From values of videos to a result file: means with intervals, by category, and what could not be measured."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from stepvideo.config import canonical, digest
from stepvideo.evaluation.jackknife import mean_interval
from stepvideo.evaluation.manifest import Manifest, Video
from stepvideo.evaluation.metrics.base import Metric, Scores, describe
from stepvideo.evaluation.stats import Estimate, holm, sign_flip, wilson

SCHEMA = 1
SETTINGS = (
    *("model", "checkpoint", "source", "steps", "nfe", "guidance", "guidance_schedule", "time_shift"),
    *(
        "frames",
        "height",
        "width",
        "fps",
        "negative",
        "suffix",
        "precision",
        "codec",
        "crf",
        "pix_fmt",
        "commit",
        "ranks",
    ),
)
ALPHA = 0.05
INTERVALS = (
    "95 % over prompts: jackknife with Student's t; Wilson with prompts as trials where all videos are right or none; "
    "null with one prompt"
)


def summary(found: Manifest, scores: Sequence[Scores], metrics: Sequence[Metric]) -> dict[str, Any]:
    """The content of results.json; equal videos and metrics give equal content.

    A mean is over videos; its 95 % interval is over prompts (`jackknife`), and null where there is one prompt.
    Where all videos or none are right, prompts show no spread: there it is Wilson's, with prompts as trials. A
    value that a metric could not give is in no mean, and counted with its reason.
    """
    videos = found.videos
    return {
        "schema": SCHEMA,
        "suite": {k: found.suite.get(k) for k in ("suite", "sha256", "prompts", "differs")},
        "manifest": digest([asdict(v) for v in videos]),
        "partial": {"expected": len(videos) + len(found.missing), "missing": found.missing} if found.missing else None,
        "videos": len(videos),
        "prompts": len({v.cluster for v in videos}),
        "settings": {name: _common(videos, name) for name in SETTINGS},
        "metrics": describe(metrics),
        "intervals": INTERVALS,
        "values": {
            name: {
                "metric": m.name,
                "better": better,
                "all": _mean(videos, scores, name, name in m.rates),
                "by_category": _groups(
                    videos, scores, name, name in m.rates, lambda v: [v.category] * bool(v.category)
                ),
                "by_dimension": _groups(videos, scores, name, name in m.rates, lambda v: v.dimensions),
            }
            for m in metrics
            for name, better in m.values.items()
        },
    }


def rows(found: Manifest, scores: Sequence[Scores]) -> str:
    """The content of scores.jsonl: a line a video."""
    lines = (
        {"id": v.id, "lang": v.lang, "sample": v.sample, "file": v.file, "sha256": v.sha256, **asdict(s)}
        for v, s in zip(found.videos, scores)
    )
    return "".join(canonical(line) + "\n" for line in lines)


def contrast(
    a: Manifest, b: Manifest, scores_a: Sequence[Scores], scores_b: Sequence[Scores], metrics: Sequence[Metric]
) -> dict[str, Any]:
    """Differences a − b of every value, over videos paired by prompt, language and sample (`check_pairs`).

    Each has its interval over prompts, the p-value of flipping signs of whole prompts, and that p-value after Holm's
    correction over all values, which the verdict follows.
    """
    of_b = {v.key: s for v, s in zip(b.videos, scores_b)}
    pairs = [(v, x, of_b[v.key]) for v, x in zip(a.videos, scores_a) if v.key in of_b]
    values: dict[str, dict[str, Any]] = {}
    for m in metrics:
        for name, better in m.values.items():
            known = [
                (v.cluster, p, q)
                for v, x, y in pairs
                if (p := x.values[name]) is not None and (q := y.values[name]) is not None
            ]
            values[name] = {"metric": m.name, "better": better, "pairs": len(known), "difference": None}
            values[name] |= {"p": None, "p_holm": None}
            if len({cluster for cluster, _, _ in known}) > 1:
                steps, clusters = [x - y for _, x, y in known], [cluster for cluster, _, _ in known]
                ends = (-1.0, 1.0) if name in m.rates else None
                values[name]["difference"] = asdict(_estimate(steps, clusters, ends))
                values[name]["p"] = sign_flip(steps, clusters)
    tested = [v for v in values.values() if v["p"] is not None]
    for v, p in zip(tested, holm([v["p"] for v in tested])):
        v["p_holm"] = p
    for v in values.values():
        v["verdict"] = _verdict(v)
    same = all(x.seed is not None and x.seed == y.seed for x, y in _paired(a, b))
    return {
        "schema": SCHEMA,
        "suite": {k: a.suite.get(k) for k in ("suite", "sha256")},
        "a": digest([asdict(v) for v in a.videos]),
        "b": digest([asdict(v) for v in b.videos]),
        "pairs": len(pairs),
        "unpaired": sorted({v.name for v in a.videos} ^ {v.name for v in b.videos}),
        "same_seeds": same,
        "intervals": INTERVALS,
        "values": values,
    }


def check_pairs(a: Manifest, b: Manifest, partial: bool) -> str:
    """Why two folders cannot be compared; "" if they can."""
    lone = sorted({v.name for v in a.videos} ^ {v.name for v in b.videos})
    pairs = _paired(a, b)
    if not pairs:
        return "no video of one folder is of the same prompt, language and sample as one of the other"
    if lone and not partial:
        return f"{len(lone)} videos are in one folder only: {', '.join(lone[:8])}; give --partial to leave them out"
    for x, y in pairs:
        if x.text != y.text:
            return f"{x.name} is {x.text!r} in one folder and {y.text!r} in the other: they are of different suites"
        if x.seed is not None and y.seed is not None and x.seed != y.seed:
            return (
                f"{x.name} has seed {x.seed} in one folder and {y.seed} in the other; generate both with the same seeds"
            )
    return ""


def _paired(a: Manifest, b: Manifest) -> list[tuple[Video, Video]]:
    of_b = {v.key: v for v in b.videos}
    return [(v, of_b[v.key]) for v in a.videos if v.key in of_b]


def _verdict(value: Mapping[str, Any]) -> str:
    if value["difference"] is None:
        return "not measured"
    if value["p_holm"] >= ALPHA:
        return "no difference shown"
    if value["better"] not in ("higher", "lower"):
        return "different"
    return "a better" if (value["difference"]["value"] > 0) == (value["better"] == "higher") else "b better"


def _mean(videos: Sequence[Video], scores: Sequence[Scores], name: str, rate: bool) -> dict[str, Any]:
    known = [(v.cluster, x) for v, s in zip(videos, scores) if (x := s.values[name]) is not None]
    nulls = Counter(s.reasons.get(name, "no reason given") for s in scores if s.values[name] is None)
    found: dict[str, Any] = {"mean": None, "low": None, "high": None, "n": len(known), "prompts": 0}
    if known:
        clusters, x = zip(*known)
        found |= {"mean": math.fsum(x) / len(x), "prompts": len(set(clusters))}
        if found["prompts"] > 1:
            same = rate and len(set(x)) == 1
            trials = found["prompts"]
            ends = (0.0, 1.0) if rate else None
            estimate = wilson(trials * round(x[0]), trials) if same else _estimate(x, clusters, ends)
            found |= {"low": estimate.low, "high": estimate.high}
    return {**found, "null": dict(sorted(nulls.items()))}


def _estimate(x: Sequence[float], clusters: Sequence[str], ends: tuple[float, float] | None) -> Estimate:
    """Of a mean. The percentile bootstrap over the dozen prompts of a category would hold the truth in nine of ten."""
    return Estimate(*mean_interval(x, clusters, ends, bounds=ends), len(x))


def _categories(video: Video) -> list[str]:
    return [video.category] if video.category else []


def _groups(
    videos: Sequence[Video],
    scores: Sequence[Scores],
    name: str,
    rate: bool,
    groups_of: Callable[[Video], Sequence[str]],
) -> dict[str, Any]:
    groups = list(dict.fromkeys(g for v in videos for g in groups_of(v)))
    found = {}
    for group in groups:
        inside = [(v, s) for v, s in zip(videos, scores) if group in groups_of(v)]
        found[group] = _mean([v for v, _ in inside], [s for _, s in inside], name, rate)
    return found


def _common(videos: Sequence[Video], name: str) -> Any:
    """The value that all have; a list of all if they differ, which a reader should know."""
    found = {canonical(getattr(v, name)): getattr(v, name) for v in videos}
    return next(iter(found.values())) if len(found) == 1 else [found[k] for k in sorted(found)]
