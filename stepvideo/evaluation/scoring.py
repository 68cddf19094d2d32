"""Metrics of every video of a manifest: each decoded once, in any number of processes, and never measured twice.

What a metric says of a file is kept under a name made of the file's sha256, the metric's version and weights, and what
it was told of the prompt. So a killed run goes on, and another metric later decodes again but measures only itself.
"""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from stepvideo import storage
from stepvideo.config import digest
from stepvideo.curation.pool import cores, run_chunks
from stepvideo.data.video_io import read_image, read_video, video_fps
from stepvideo.errors import ArtifactError
from stepvideo.evaluation.manifest import Manifest, Video
from stepvideo.evaluation.metrics.base import Asked, Metric, Scores, measure
from stepvideo.evaluation.metrics.registry import metrics_of

CACHE = ".scores"
TIMEOUT_S = 1800.0  # of one video


@dataclass(frozen=True)
class Choice:
    """Which metrics, and the weights of those that take some: a file or folder by metric."""

    names: tuple[str, ...] = ()
    weights: tuple[tuple[str, str], ...] = ()

    @functools.cached_property
    def metrics(self) -> list[Metric]:
        """Raises ConfigError, ArtifactError."""
        return metrics_of(self.names, dict(self.weights))


@dataclass(frozen=True)
class _Job:
    """A video and the metrics that have not seen it; goes to a worker."""

    path: str
    video: Video
    choice: Choice
    todo: tuple[str, ...]
    cache: str


def score(
    found: Manifest,
    choice: Choice,
    workers: int = 1,
    cache: Path | None = None,
    on_done: Callable[[int, int], None] = lambda done, total: None,
) -> list[Scores]:
    """Values of every video, in the manifest's order.

    Args:
        workers: processes; 0 for one a core. Any number gives the same values.
        cache: where values are kept; `.scores` beside the videos.
        on_done: called with (videos done, videos in all).

    Raises:
        ArtifactError: a video that cannot be decoded, or that ended its worker; the others' values are kept.
    """
    cache = cache or found.folder / CACHE
    metrics = choice.metrics
    jobs = []
    for v in found.videos:
        todo = tuple(m.name for m in metrics if not _kept(cache, v, m).exists())
        if todo:
            jobs.append(_Job(str(found.folder / v.file), v, choice, todo, str(cache)))
    before, total = len(found.videos) - len(jobs), len(found.videos)
    on_done(before, total)
    for n, _ in enumerate(_run(jobs, min(workers or cores(), len(jobs))), 1):
        on_done(before + n, total)
    return [_read(cache, v, metrics) for v in found.videos]


def asked_of(video: Video) -> Asked:
    """What a metric may know."""
    return Asked(video.text, video.lang, video.category, video.dimensions, video.aux)


def _run(jobs: Sequence[_Job], workers: int) -> Iterator[Any]:
    if workers <= 1:
        yield from (_measure(job) for job in jobs)
        return
    chunks = [(n, [job]) for n, job in enumerate(jobs)]
    for _, (fault,) in run_chunks(_measure_all, chunks, _fault, workers, TIMEOUT_S):
        if fault:
            raise ArtifactError(fault)
        yield fault


def _measure_all(jobs: list[_Job]) -> list[str]:
    """In a worker. What is wrong with a file is returned, as errors of the library do not travel alike."""
    try:
        for job in jobs:
            _measure(job)
    except ArtifactError as e:
        return [str(e)]
    return [""] * len(jobs)


def _fault(job: _Job, kind: str, detail: str) -> str:
    return f"{job.path} could not be measured ({kind}: {detail}); what was measured before is kept"


def _measure(job: _Job) -> None:
    metrics = [m for m in _metrics(job.choice) if m.name in job.todo]
    frames, fps = _decoded(Path(job.path), job.video)
    found = measure(frames, fps, asked_of(job.video), metrics)
    for m in metrics:
        values = {name: found.values[name] for name in m.values}
        reasons = {name: found.reasons[name] for name in m.values if name in found.reasons}
        storage.write_json(_kept(Path(job.cache), job.video, m), {"values": values, "reasons": reasons})


@functools.lru_cache(maxsize=1)
def _metrics(choice: Choice) -> list[Metric]:
    """With their weights, which a worker loads once."""
    return choice.metrics


def _decoded(path: Path, video: Video) -> tuple[Any, float]:
    """uint8 [T, H, W, 3] and frames a second, 0 for a still."""
    if path.suffix.lower() == ".png":
        return read_image(path)[None], 0.0
    frames = read_video(path)
    return (frames, 0.0) if len(frames) == 1 else (frames, video.fps or video_fps(path))


def _kept(cache: Path, video: Video, metric: Metric) -> Path:
    told = {"sha256": video.sha256, "fps": video.fps, "weights": metric.weights_digest}
    if "prompt" in metric.needs:
        told["asked"] = asdict(asked_of(video))
    # a package that is installed later makes a null a value
    told["packages"] = {n: _installed(n) for n in metric.needs if n not in ("prompt", "weights")}
    return cache / f"{metric.name}-{metric.version}" / f"{digest(told)[:40]}.json"


@functools.cache
def _installed(package: str) -> bool:
    return importlib.util.find_spec(package) is not None


def _read(cache: Path, video: Video, metrics: Sequence[Metric]) -> Scores:
    values: dict[str, float | None] = {}
    reasons: dict[str, str] = {}
    for m in metrics:
        path = _kept(cache, video, m)
        kept: Mapping[str, Any] = storage.read_json(path)
        if set(kept.get("values", ())) != set(m.values):
            raise ArtifactError(f"{path} holds other values than {', '.join(m.values)}; remove it to measure again")
        values |= kept["values"]
        reasons |= kept["reasons"]
    return Scores(values, reasons)
