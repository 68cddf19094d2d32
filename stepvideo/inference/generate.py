"""Requests → files: what `stepvideo generate` calls. A long batch that was interrupted goes on where it stopped."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from stepvideo.data.show import MIN_SIDE
from stepvideo.data.video_io import read_video
from stepvideo.diffusion.conditions import TextFeatures
from stepvideo.errors import ArtifactError, StepVideoError
from stepvideo.inference.outputs import (
    USUAL,
    Encoding,
    check_format,
    complete,
    preview_path,
    read_made_by,
    write_output,
    write_preview,
)
from stepvideo.inference.pipeline import StepVideoPipeline
from stepvideo.inference.requests import Request
from stepvideo.inference.settings import Settings


@dataclass(frozen=True)
class Generated:
    """One request's file, how it was made and what it cost."""

    path: Path
    settings: Settings
    nfe: int  # network evaluations
    seconds: float  # of sampling, decoding and writing; 0 when the file was there already
    cached: bool = False


def generate(
    pipe: StepVideoPipeline,
    requests: Sequence[Request],
    *,
    fps: float = 25,
    preview: str = "",
    min_side: int = MIN_SIDE,
    encoding: Encoding = USUAL,
    overwrite: bool = False,
    lineage: Mapping[str, Any] | None = None,
    features: TextFeatures | None = None,
    say: Callable[[str], None] = print,
    on_step: Callable[[int, int], None] | None = None,
    on_done: Callable[[Generated], None] | None = None,
) -> list[Generated]:
    """Generate what is not there yet. Every request is checked before the first is begun.

    Args:
        fps, preview, min_side, encoding: see `write_output`. A preview that is missing beside a finished video is made
            from it.
        overwrite: replace a file that other settings made; one of the same settings is kept in any case.
        features: of all texts, made before by `stepvideo embed`; negative prompts count where there is guidance.
        lineage: goes into every file's metadata beside the settings and the digest of the weights.
        say: told each notice and each finished file.
        on_step: called with (steps done, steps in all) over all requests.
        on_done: called with each video that is there, whether just made or before.

    Raises:
        ArtifactError: a model file is missing or damaged, or an output cannot be written.
        StepVideoError: an impossible setting, a file type, an existing file that other settings made.
    """
    check_format(fps, preview)
    jobs = [_job(pipe, r, fps, {**encoding.made_by, **(lineage or {})}, say) for r in requests]
    _check_distinct(jobs, preview)
    jobs = pipe.agree(lambda: [_what_is_there(job, preview, overwrite) for job in jobs])
    for notice in pipe.notices:
        say(notice)
    todo = [job.settings for job in jobs if not job.made]
    texts = [text for settings in todo for text in settings.texts]
    if features is not None:
        features.check(texts)
    elif texts:
        features = pipe.encode(texts)  # which refuses what it cannot spell, before anything is said of it
    for notice in pipe.text_notices(todo):
        say(notice)
    total = sum(settings.sampling.steps for settings in todo)
    results, done = [], 0
    for job in jobs:
        started = time.perf_counter()
        if job.made:
            if job.preview and pipe.is_main:
                write_preview(job.preview, read_video(job.out), job.made_by, fps)
            results.append(Generated(job.out, job.settings, 0, 0.0, cached=True))
            if on_done is not None:
                on_done(results[-1])
            say(f"{job.out}: there already, made with these settings")
            continue

        def count(step: int, _steps: int, before: int = done) -> None:
            if on_step is not None:
                on_step(before + step, total)

        out = pipe(job.request.prompt, prompt_embeds=features, callback_on_step_end=count, **_arguments(job.request))
        if pipe.is_main:
            write_output(job.out, out.frames[0], job.made_by, fps, preview, min_side, encoding)
        seconds = time.perf_counter() - started
        results.append(Generated(job.out, job.settings, out.nfe, seconds))
        if on_done is not None:
            on_done(results[-1])
        s = job.settings.sampling
        done += s.steps
        cost = f"{s.steps} steps, {out.nfe} evaluations, {seconds:.1f} s"
        say(f"{job.out}: {s.frames} frame{'s' * (s.frames > 1)} of {s.height}x{s.width}, {cost}")
    return results


@dataclass(frozen=True)
class _Job:
    """A request, resolved."""

    request: Request
    out: Path
    settings: Settings
    made_by: dict[str, Any]
    made: bool = False  # the file is there already
    preview: Path | None = None  # that is missing beside it


def _job(
    pipe: StepVideoPipeline, request: Request, fps: float, lineage: Mapping[str, Any], say: Callable[[str], None]
) -> _Job:
    (settings,), notices, _ = pipe.plan(request.prompt, **_arguments(request))
    out = complete(request.out, settings.sampling.frames)
    for notice in notices:
        say(f"{out.name}: {notice}")
    more = {"fps": fps, "precision": pipe.engine.precision, "weights": pipe.digest}
    return _Job(request, out, settings, {**settings.to_dict(), **more, **pipe.lossy, **lineage})


def _arguments(request: Request) -> dict[str, Any]:
    return {"seed": request.seed, "image": request.image or None, **request.options}


def _what_is_there(job: _Job, preview: str, overwrite: bool) -> _Job:
    made = _is_there(job.out, job.made_by, overwrite)
    beside = preview_path(job.out, preview)
    missing = beside is not None and not _is_there(beside, job.made_by, overwrite)
    return replace(job, made=made, preview=beside if missing else None)


def _is_there(path: Path, made_by: Mapping[str, Any], overwrite: bool) -> bool:
    if not path.exists():
        return False
    try:
        found = read_made_by(path)
    except ArtifactError:
        found = {}
    found.pop("stepvideo", None)  # the version
    if found == dict(made_by):
        return True
    if not overwrite:
        changed = sorted(k for k in {**made_by, **found} if found.get(k) != made_by.get(k)) if found else []
        how = f"with other settings ({', '.join(changed)})" if changed else "by something else"
        raise StepVideoError(f"{path} was made {how}; choose another --out, or --overwrite")
    return False


def _check_distinct(jobs: Sequence[_Job], preview: str) -> None:
    written = Counter(path.resolve() for job in jobs for path in (job.out, preview_path(job.out, preview)) if path)
    if twice := [path for path, times in written.items() if times > 1]:
        raise StepVideoError(f"two requests would write {twice[0]}; give them different names")
    if lost := [
        job.request.image for job in jobs if job.request.image and Path(job.request.image).resolve() in written
    ]:
        raise StepVideoError(f"the image {lost[0]} would be overwritten; choose another --out")
