"""Requests → files: what `stepvideo generate` calls. A long batch that was interrupted goes on where it stopped."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stepvideo.data.show import MIN_SIDE
from stepvideo.diffusion.conditions import TextFeatures
from stepvideo.errors import ArtifactError, StepVideoError
from stepvideo.inference.outputs import check_name, read_made_by, write_output
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
    overwrite: bool = False,
    lineage: Mapping[str, Any] | None = None,
    features: TextFeatures | None = None,
    say: Callable[[str], None] = print,
    on_step: Callable[[int, int], None] | None = None,
) -> list[Generated]:
    """Generate what is not there yet. Every request is checked before the first is begun.

    Args:
        fps, preview, min_side: see `write_output`.
        overwrite: replace a file that other settings made; one of the same settings is kept in any case.
        features: of all texts, made before by `stepvideo embed`; negative prompts count.
        lineage: goes into every file's metadata beside the settings and the digest of the weights.
        say: told each notice and each finished file.
        on_step: called with (steps done, steps in all) over all requests.

    Raises:
        ArtifactError: a model file is missing or damaged, or an output cannot be written.
        StepVideoError: an impossible setting, a file type, an existing file that other settings made.
    """
    plans = [_plan(pipe, r) for r in requests]
    for request, (settings, notices) in zip(requests, plans):
        check_name(request.out, settings.sampling.frames)
        for notice in notices:
            say(f"{request.out.name}: {notice}")
    _check_distinct(requests)
    made_by = [_made_by(pipe, settings, fps, lineage or {}) for settings, _ in plans]
    there = pipe.agree(lambda: [_is_there(r.out, made, overwrite) for r, made in zip(requests, made_by)])
    todo = [not t for t in there]
    for notice in pipe.notices:
        say(notice)
    texts = [s.text for (s, _), wanted in zip(plans, todo) if wanted]
    negatives = {s.negative_prompt for (s, _), wanted in zip(plans, todo) if wanted}
    for notice in pipe.text_notices(list(dict.fromkeys(texts))):
        say(notice)
    if features is None and texts:
        features = pipe.encode([*texts, *negatives])
    total = sum(s.sampling.steps for (s, _), wanted in zip(plans, todo) if wanted)
    results, done = [], 0
    for request, (settings, _), made, wanted in zip(requests, plans, made_by, todo):
        if not wanted:
            results.append(Generated(request.out, settings, 0, 0.0, cached=True))
            say(f"{request.out}: there already, made with these settings")
            continue
        started = time.perf_counter()

        def count(step: int, _steps: int, before: int = done) -> None:
            if on_step is not None:
                on_step(before + step, total)

        arguments = {**request.options, **({"image": request.image} if request.image else {})}
        out = pipe(request.prompt, seed=request.seed, prompt_embeds=features, callback_on_step_end=count, **arguments)
        if pipe.is_main:
            write_output(request.out, out.frames[0], made, fps, preview, min_side)
        seconds = time.perf_counter() - started
        results.append(Generated(request.out, settings, out.nfe, seconds))
        done += settings.sampling.steps
        s = settings.sampling
        cost = f"{s.steps} steps, {out.nfe} evaluations, {seconds:.1f} s"
        say(f"{request.out}: {s.frames} frames of {s.height}x{s.width}, {cost}")
    return results


def _plan(pipe: StepVideoPipeline, request: Request) -> tuple[Settings, list[str]]:
    plan, notices, _ = pipe.plan(request.prompt, seed=request.seed, image=request.image or None, **request.options)
    return plan[0], notices


def _made_by(pipe: StepVideoPipeline, settings: Settings, fps: float, lineage: Mapping[str, Any]) -> dict[str, Any]:
    return {
        **settings.to_dict(),
        "fps": fps,
        "precision": pipe.engine.precision,
        "weights": pipe.digest,
        **pipe.lossy,
        **lineage,
    }


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


def _check_distinct(requests: Sequence[Request]) -> None:
    seen: set[Path] = set()
    for request in requests:
        if request.out in seen:
            raise StepVideoError(f"two requests would write {request.out}; give them different names")
        seen.add(request.out)
