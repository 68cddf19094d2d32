"""The videos of a suite: planned whole, made in any number of parts, each recorded as soon as it is there."""

from __future__ import annotations

import hashlib
import os
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from stepvideo.diffusion.conditions import TextFeatures
from stepvideo.diffusion.guidance import evaluations
from stepvideo.diffusion.sampling import Sampling
from stepvideo.diffusion.schedule import sigmas
from stepvideo.errors import ArtifactError, ConfigError
from stepvideo.evaluation import manifest
from stepvideo.evaluation.manifest import GENERATED, Video
from stepvideo.evaluation.suites.schema import Prompt, Suite
from stepvideo.inference.generate import Generated, generate
from stepvideo.inference.outputs import Encoding, complete
from stepvideo.inference.pipeline import StepVideoPipeline
from stepvideo.inference.requests import Request
from stepvideo.inference.settings import Settings
from stepvideo.parallel.config import ParallelConfig
from stepvideo.storage import sha256_file


@dataclass(frozen=True)
class Wanted:
    """What to make of a suite.

    Attributes:
        languages: in which the prompts are given; a video each.
        seeds: videos a prompt and language.
        seed: of the first; further ones count up. A prompt's own `aux["seeds"]` go before.
        own_noise: seeds drawn from the prompt's id instead, so that no two prompts start from one noise.
        options: arguments of `StepVideoPipeline.__call__`.
        images: folder of the first frames that `aux["image"]` names.
        partial: leave out the prompts whose first frame is not there; their videos stay missing.
    """

    languages: Sequence[str]
    seeds: int = 1
    seed: int = 0
    own_noise: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)
    fps: float = 25
    encoding: Encoding = field(default_factory=Encoding)
    images: Path | None = None
    partial: bool = False

    def __post_init__(self) -> None:
        if self.seeds < 1:
            raise ConfigError(f"seeds={self.seeds}: give 1 or more")

    def seeds_of(self, prompt: Prompt) -> list[int]:
        if own := prompt.aux.get("seeds"):
            return [int(s) for s in own]
        if not self.own_noise:
            return [self.seed + n for n in range(self.seeds)]
        names = (f"{self.seed}:{prompt.id}:{n}" for n in range(self.seeds))
        return [int.from_bytes(hashlib.sha256(name.encode()).digest()[:4]) for name in names]


def requests_of(suite: Suite, wanted: Wanted, folder: Path) -> list[tuple[Prompt, str, int, Request]]:
    """(prompt, language, sample, request) of every video, in the order of the manifest.

    Raises:
        ConfigError: a prompt without text in a language.
        ArtifactError: first frames that are missing, or not those of the suite; all named.
    """
    lost = [p.id for p in suite.prompts if not _image_fits(p, wanted.images)]
    if lost and (not wanted.partial or len(lost) == len(suite.prompts)):
        raise ArtifactError(
            f"first frames are missing, or not those that the suite was made with: {', '.join(lost[:8])}"
            f"{f' and {len(lost) - 8} more' if len(lost) > 8 else ''}; give --images FOLDER that holds them, or "
            "--partial to go without these prompts"
        )
    made = []
    for p in suite.prompts:
        known = wanted.images and p.aux.get("image") and p.id not in lost
        image = str(wanted.images / p.aux["image"]) if wanted.images and known else ""
        for lang in wanted.languages:
            for n, seed in enumerate(wanted.seeds_of(p)):
                out = folder / f"{p.id}-{lang}-s{seed}"
                made.append((p, lang, n, Request(p.text(lang), out, seed, image, wanted.options)))
    return made


def generate_suite(
    pipe: StepVideoPipeline,
    suite: Suite,
    wanted: Wanted,
    folder: Path,
    part: tuple[int, int] = (1, 1),
    *,
    lineage: Mapping[str, Any] | None = None,
    features: TextFeatures | None = None,
    say: Callable[[str], None] = print,
    on_step: Callable[[int, int], None] | None = None,
) -> bool:
    """Make what part `i` of `n` has to and what is not there yet; returns whether the manifest is complete.

    The folder and its manifest are the same for any number of parts, whatever was killed and begun again.

    Raises:
        StepVideoError: the folder was begun with other settings; an impossible setting.
        ArtifactError: a file that was changed since it was made.
    """
    plan = []
    asked = requests_of(suite, wanted, folder)
    model = ", ".join(f"{k} {v}" for k, v in (lineage or {}).items())
    for p, lang, n, request in asked:
        row = Video(suite.digest, p.id, suite.clusters[p.id], lang, n, f"{request.out.name}.mp4", request.prompt)
        row = replace(row, category=p.category, dimensions=p.dimensions, aux=p.aux, source=GENERATED)
        if request.image or not p.aux.get("image"):
            image = request.image or None
            (settings,), _, _ = pipe.plan(request.prompt, seed=request.seed, image=image, **request.options)
            out = complete(request.out, settings.sampling.frames)
            row = replace(row, file=out.name, **_made_with(settings), **_opened(pipe, wanted, out), model=model)
        plan.append(row)
    pipe.agree(lambda: manifest.begin(folder, suite.head(), plan))
    mine = [i for i in range(part[0] - 1, len(plan), part[1]) if plan[i].checkpoint]
    by_name = {plan[i].file: plan[i] for i in mine}
    commit = code_version()

    def keep(done: Generated) -> None:
        if pipe.is_main:
            row = replace(by_name[done.path.name], sha256=sha256_file(done.path), commit=commit)
            manifest.record(folder, row)

    generate(
        pipe,
        [asked[i][3] for i in mine],
        fps=wanted.fps,
        min_side=0,
        encoding=wanted.encoding,
        lineage=lineage,
        features=features,
        say=say,
        on_step=on_step,
        on_done=keep,
    )
    return pipe.agree(lambda: manifest.assemble(folder))


def _made_with(settings: Settings) -> dict[str, Any]:
    s = settings.sampling
    return {
        "seed": settings.seed,
        "steps": s.steps,
        "nfe": evaluations_of(s),
        "guidance": float(s.cfg),
        "guidance_schedule": s.cfg_schedule,
        "time_shift": float(s.time_shift),
        "frames": s.frames,
        "height": s.height,
        "width": s.width,
        "negative": settings.negative_prompt,
        "suffix": settings.positive_suffix,
        "image": settings.image or None,
        "motion_score": settings.motion_score,
    }


def _opened(pipe: StepVideoPipeline, wanted: Wanted, out: Path) -> dict[str, Any]:
    still = out.suffix == ".png"
    return {
        "fps": None if still else float(wanted.fps),
        "precision": pipe.engine.precision,
        "options": pipe.lossy,
        "ranks": asdict(pipe.ranks.config if pipe.ranks else ParallelConfig()),
        "checkpoint": pipe.digest,
        "codec": "png" if still else "h264",
        "crf": None if still else wanted.encoding.crf,
        "pix_fmt": "rgb24" if still else wanted.encoding.pix_fmt,
    }


def evaluations_of(sampling: Sampling) -> int:
    """Network evaluations of one video."""
    return evaluations(sampling.guidance, sigmas(sampling.steps, sampling.time_shift))


def code_version() -> str:
    """The commit of this checkout, with "+" and a digest of what was changed since; "" outside of one."""
    root = Path(__file__).resolve().parents[3]

    def git(*args: str) -> str:
        found = subprocess.run(["git", "-C", str(root), *args], capture_output=True, text=True, check=False)
        return found.stdout if found.returncode == 0 else ""

    commit = git("rev-parse", "HEAD").strip() if (root / ".git").exists() else ""
    changed = git("diff", "HEAD", "--", "stepvideo") if commit else ""
    return f"{commit}+{hashlib.sha256(changed.encode()).hexdigest()[:8]}" if changed else commit


def part_of(text: str, environment: Mapping[str, str] = os.environ) -> tuple[int, int]:
    """ "2/8" → (2, 8); "" → the element of a Slurm array that this is, or (1, 1).

    Raises:
        ConfigError: no such part.
    """
    if text:
        i, slash, n = text.partition("/")
        if not slash or not i.isdecimal() or not n.isdecimal() or not 1 <= int(i) <= int(n):
            raise ConfigError(f"--part {text!r}: give I/N, for example 2/8, with I from 1 to N")
        return int(i), int(n)
    if "SLURM_ARRAY_TASK_ID" not in environment:
        return 1, 1
    element, count, first, step = (
        int(environment.get(f"SLURM_ARRAY_TASK_{name}", default))
        for name, default in (("ID", 0), ("COUNT", 1), ("MIN", 0), ("STEP", 1))
    )
    number, rest = divmod(element - first, step or 1)
    if rest or not 0 <= number < count:
        raise ConfigError(f"Slurm's element {element} of {count} from {first} by {step} is no part; give --part I/N")
    return number + 1, count


def _image_fits(prompt: Prompt, images: Path | None) -> bool:
    if not prompt.aux.get("image"):
        return True
    path = images / prompt.aux["image"] if images else None
    return path is not None and path.is_file() and sha256_file(path) == prompt.aux.get("image_sha256")
