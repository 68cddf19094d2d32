"""What to generate: one request a video, from the command line or from a file of prompts. Torch-free."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from stepvideo.errors import ArtifactError, StepVideoError

OPTIONS = {  # name of a request's option: type; the pipeline's own names
    "negative_prompt": str,
    "positive_suffix": str,
    "height": int,
    "width": int,
    "num_frames": int,
    "num_inference_steps": int,
    "guidance_scale": float,
    "guidance_schedule": str,
    "time_shift": float,
    "motion_score": float,
}
SLUG = 40  # characters of the prompt in a file's name


@dataclass(frozen=True)
class Request:
    """One video to make. `options` are arguments of `StepVideoPipeline.__call__`; an `out` without ending gets .mp4, or
    .png for a single frame."""

    prompt: str
    out: Path
    seed: int = 0
    image: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)


def from_file(path: Path, folder: Path, common: Request, videos: int) -> list[Request]:
    """The requests of a prompt file, written to `folder` as 0001-prompt, 0002-… (0001-s7-prompt with several videos a
    prompt); `generate` adds the ending.

    A .jsonl file holds an object a line: `prompt`, and optionally `seed`, `image` (beside the file) and any option of
    `generate`; any other file holds a prompt a line. Empty lines are skipped.

    Raises:
        ArtifactError: the file cannot be read.
        StepVideoError: names the line that is wrong, and how.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")  # U+2028 and the like belong to a prompt
    except (OSError, UnicodeDecodeError) as e:
        raise ArtifactError(f"{path} cannot be read as a UTF-8 file of prompts: {e}") from e
    rows = []
    for n, line in enumerate(lines, 1):
        if path.suffix.lower() == ".jsonl" and line.strip():
            rows.append(_object(line, f"{path.name} line {n}", common, path.parent))
        elif line.strip():
            rows.append(replace(common, prompt=line.strip()))
    if not rows:
        raise StepVideoError(f"{path} holds no prompt; write one a line")
    made = []
    for n, row in enumerate(rows, 1):
        for j in range(videos):
            seed = row.seed + j
            name = f"{n:04d}-{f's{seed}-' if videos > 1 else ''}{slug(row.prompt)}"
            made.append(replace(row, seed=seed, out=folder / name))
    return made


def slug(prompt: str) -> str:
    """A short file name that still tells the prompt; Chinese stays."""
    return re.sub(r"[^\w]+", "-", prompt).strip("-")[:SLUG].strip("-") or "empty"


def _object(line: str, where: str, common: Request, folder: Path) -> Request:
    try:
        data = json.loads(line)
    except json.JSONDecodeError as e:
        raise StepVideoError(f'{where} is no JSON object: {e}; write {{"prompt": "…", "seed": 1}}') from e
    if not isinstance(data, dict) or not isinstance(data.get("prompt"), str):
        raise StepVideoError(f'{where} has no text "prompt"')
    known = [*OPTIONS, "prompt", "seed", "image"]
    if unknown := sorted(set(data) - set(known)):
        raise StepVideoError(f"{where}: unknown keys {', '.join(unknown)}; known are {', '.join(known)}")
    options = dict(common.options)
    for key, value in data.items():
        kind = OPTIONS.get(key, int if key == "seed" else str)
        if isinstance(value, bool) or not isinstance(value, (int, float) if kind is float else kind):
            raise StepVideoError(f"{where}: {key}={value!r} must be of type {kind.__name__}")
        if key in OPTIONS:
            options[key] = value
    image = str(folder / data["image"]) if data.get("image") else common.image
    return replace(common, prompt=data["prompt"], seed=data.get("seed", common.seed), image=image, options=options)
