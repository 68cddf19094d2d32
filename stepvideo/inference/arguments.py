"""Options of `stepvideo generate`. Torch-free, so that `--help` is fast."""

from __future__ import annotations

import argparse
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

from stepvideo.errors import ArtifactError, ConfigError, StepVideoError
from stepvideo.inference.memory.config import OFFLOAD, QUANTIZATION, TEXT, MemoryConfig
from stepvideo.inference.repetition import repeated
from stepvideo.inference.requests import OPTIONS, Request, from_file
from stepvideo.parallel.config import ParallelConfig

HELP = "a video, or many, from Chinese or English prompts"
SPELLED = {  # option on the command line: argument of the pipeline
    "negative": ("negative_prompt", "PROMPT", "what the video should not look like"),
    "suffix": ("positive_suffix", "TEXT", "appended to every prompt, such as words of quality"),
    "steps": ("num_inference_steps", "INT", "sampling steps; the model says, if not given, here and below"),
    "cfg": ("guidance_scale", "FLOAT", "guidance scale; 1 for the prompt alone"),
    "cfg-schedule": ("guidance_schedule", "NAME", "constant, or diminishing (for Turbo)"),
    "time-shift": ("time_shift", "FLOAT", "shift of the time grid"),
    "frames": ("num_frames", "INT", "length; floored to whole chunks of 17"),
    "height": ("height", "INT", "in pixels"),
    "width": ("width", "INT", "in pixels"),
    "motion-score": ("motion_score", "FLOAT", "with --image: 2 stable, 5 usual, 10 to 20 intense"),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What `generate` makes, and how the machine is used for it."""
    parser.add_argument("prompt", nargs="?", metavar="PROMPT", help='for example "一个红色的圆向右移动"')
    text = "say this phrase of the prompt again after it, or all of it: what `inspect attention` calls neglected"
    parser.add_argument("--repeat", nargs="?", const="", metavar="PHRASE", help=text)
    parser.add_argument("--prompts", type=Path, metavar="FILE", help="a prompt a line, or .jsonl with settings a line")
    parser.add_argument("--out", type=Path, metavar="FILE.mp4", help="a folder with --prompts or --videos")
    parser.add_argument("--videos", type=int, default=1, metavar="N", help="videos a prompt, of consecutive seeds")
    parser.add_argument("--image", default="", metavar="FILE", help="the first frame, for an image-to-video model")
    parser.add_argument("--seed", type=int, default=0, metavar="INT", help="of the noise")
    add_settings(parser)
    parser.add_argument("--preview", default="", choices=("png", "gif"), help="a picture of it beside the mp4")
    parser.add_argument("--overwrite", action="store_true", help="replace files that other settings made")
    parser.add_argument("--plan", action="store_true", help="print the memory it would take, and load nothing")
    parser.add_argument("--gpus", default="80,48,24", metavar="GB,…", help="with --plan: the cards to consider")
    add_machine(parser)
    add_ranks(parser)
    parser.add_argument("--json", action="store_true", help="print JSON instead of progress")


def add_settings(parser: argparse.ArgumentParser) -> None:
    """What decides a video beside its prompt and seed; `options_of` reads them."""
    for option, (name, metavar, text) in SPELLED.items():
        parser.add_argument(f"--{option}", dest=name, type=OPTIONS[name], metavar=metavar, help=text)
    parser.add_argument("--preset", default="", metavar="NAME", help="settings of a released model: t2v, ti2v or turbo")
    parser.add_argument("--fps", type=float, default=25, metavar="FLOAT", help="frames a second of the file (25)")
    parser.add_argument("--embeddings", type=Path, metavar="FILE", help="text features made by `stepvideo embed`")


def options_of(args: argparse.Namespace) -> dict[str, Any]:
    """The pipeline's arguments that were given."""
    return {k: getattr(args, k) for k in OPTIONS if getattr(args, k) is not None}


def add_machine(parser: argparse.ArgumentParser) -> None:
    """Device, precision and memory; also of other commands that open a whole model."""
    group = parser.add_argument_group("machine")
    group.add_argument("--device", default="auto", metavar="NAME", help="auto, cpu, cuda, cuda:1")
    group.add_argument("--precision", default="bf16", metavar="NAME", help="bf16 or fp32")
    text = "memory options (none given: the fastest that fit, by prediction)"
    group = parser.add_argument_group(text)
    group.add_argument("--offload", choices=OFFLOAD, help="keep networks, or single layers, in host memory until used")
    group.add_argument("--prefetch", type=int, metavar="INT", help="with --offload layer: layers copied ahead (1)")
    group.add_argument("--quantization", choices=QUANTIZATION, help="of the DiT's blocks; changes the result slightly")
    group.add_argument("--vae-tile", type=int, metavar="PIXELS", help="decode in squares; changes the result slightly")
    group.add_argument("--vae-overlap", type=int, metavar="PIXELS", help="of neighbouring tiles (64)")
    group.add_argument(
        "--text-encoders", dest="text_rest", choices=TEXT, help="keep them, free them, or run them apart"
    )
    group.add_argument("--guidance-in-turn", action="store_true", help="not in one batch: half the activations")


def add_ranks(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("several devices (also under torchrun)")
    group.add_argument("--nproc", type=int, metavar="N", help="ranks to start on this machine")
    group.add_argument("--tensor", type=int, metavar="N", help="ranks that share heads and widths")
    group.add_argument("--ulysses", type=int, metavar="N", help="ranks that share tokens")
    group.add_argument("--cfg-ranks", type=int, metavar="N", help="ranks that share guidance's halves (2)")


def memory_of(args: argparse.Namespace) -> MemoryConfig | None:
    """The options given; None when none is.

    Raises:
        ConfigError: an impossible value.
    """
    names = {"text_rest": "text"} | {k: k for k in ("offload", "prefetch", "quantization", "vae_tile", "vae_overlap")}
    given = {field: getattr(args, name) for name, field in names.items() if getattr(args, name) is not None}
    given |= {"cfg_batched": False} if args.guidance_in_turn else {}
    try:
        return MemoryConfig(**given) if given else None
    except ValueError as e:
        raise ConfigError(str(e)) from e


def parallel_of(args: argparse.Namespace) -> ParallelConfig:
    """The degrees given; ranks for which none is given share guidance's halves, then tokens.

    Raises:
        ConfigError: degrees whose product is not --nproc.
    """
    degrees = {"tensor": args.tensor, "ulysses": args.ulysses, "cfg": args.cfg_ranks}
    given = {k: v for k, v in degrees.items() if v is not None}
    ranks = int(os.environ.get("WORLD_SIZE", 1)) if args.nproc is None else args.nproc
    if ranks < 1:
        raise ConfigError(f"--nproc {ranks}: give 1 or more")
    try:
        if given:
            config = ParallelConfig(**given)
            if ranks > 1 and config.world_size != ranks:
                raise ConfigError(
                    f"--nproc {ranks}: tensor · ulysses · cfg-ranks is {config.world_size}; make them equal"
                )
            return config
        halves = 2 if ranks % 2 == 0 and args.guidance_scale != 1 else 1
        return ParallelConfig(cfg=halves, ulysses=ranks // halves)
    except ValueError as e:
        raise ConfigError(str(e)) from e


def requests(args: argparse.Namespace) -> list[Request]:
    """The videos that a command line asks for.

    Raises:
        StepVideoError: no prompt or two, no --out, a file where a folder belongs.
    """
    if (args.prompt is None) == (args.prompts is None):
        raise StepVideoError('give one prompt, such as "一个红色的圆向右移动", or --prompts FILE')
    if args.out is None:
        raise StepVideoError("give --out FILE.mp4 (a folder with --prompts or --videos)")
    if args.videos < 1:
        raise StepVideoError(f"--videos {args.videos}: give 1 or more")
    if args.repeat is not None and args.prompt is None:
        raise StepVideoError("--repeat belongs to one prompt; with --prompts, write what is said again into the file")
    prompt = args.prompt if args.repeat is None else repeated(args.prompt, args.repeat)
    common = Request(prompt or "", args.out, args.seed, args.image, options_of(args))
    if args.prompts is None and args.videos == 1:
        if os.path.isdir(args.out):
            raise StepVideoError(f"--out {args.out} is a folder; one video needs a file, such as {args.out}/a.mp4")
        return [common]
    if args.out.suffix.lower() in (".mp4", ".png") or os.path.isfile(args.out):
        raise StepVideoError(f"--out {args.out}: several videos need a folder, not a file")
    if args.prompts is not None:
        made = from_file(args.prompts, args.out, common, args.videos)
    else:
        seeds = range(args.seed, args.seed + args.videos)
        made = [replace(common, seed=seed, out=args.out / f"s{seed}") for seed in seeds]
    try:
        args.out.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise ArtifactError(f"--out {args.out} cannot be made: {e.strerror}; choose another folder") from e
    return made
