"""Options of `stepvideo generate`. Torch-free, so that `--help` is fast."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

from stepvideo.errors import StepVideoError
from stepvideo.inference.requests import OPTIONS, Request, from_file

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
    parser.add_argument("prompt", nargs="?", metavar="PROMPT", help='for example "一个红色的圆向右移动"')
    parser.add_argument("--prompts", type=Path, metavar="FILE", help="a prompt a line, or .jsonl with settings a line")
    parser.add_argument("--out", type=Path, metavar="FILE.mp4", help="a folder with --prompts or --videos")
    parser.add_argument("--videos", type=int, default=1, metavar="N", help="videos a prompt, of consecutive seeds")
    parser.add_argument("--image", default="", metavar="FILE", help="the first frame, for an image-to-video model")
    parser.add_argument("--seed", type=int, default=0, metavar="INT", help="of the noise")
    for option, (name, metavar, text) in SPELLED.items():
        parser.add_argument(f"--{option}", dest=name, type=OPTIONS[name], metavar=metavar, help=text)
    parser.add_argument("--preset", default="", metavar="NAME", help="settings of a released model: t2v, ti2v or turbo")
    parser.add_argument("--fps", type=float, default=25, metavar="FLOAT", help="frames a second of the file (25)")
    parser.add_argument("--preview", default="", choices=("png", "gif"), help="a picture of it beside the mp4")
    parser.add_argument("--overwrite", action="store_true", help="replace files that other settings made")
    parser.add_argument("--device", default="auto", metavar="NAME", help="auto, cpu, cuda, cuda:1")
    parser.add_argument("--precision", default="bf16", metavar="NAME", help="bf16 or fp32")
    parser.add_argument("--json", action="store_true", help="print JSON instead of progress")


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
    given: dict[str, Any] = {k: getattr(args, k) for k in OPTIONS if getattr(args, k) is not None}
    common = Request(args.prompt or "", args.out, args.seed, args.image, given)
    suffix = ".png" if given.get("num_frames") == 1 else ".mp4"
    if args.prompts is None and args.videos == 1:
        return [common]
    if args.out.suffix in (".mp4", ".png"):
        raise StepVideoError(f"--out {args.out}: several videos need a folder, not a file")
    args.out.mkdir(parents=True, exist_ok=True)
    if args.prompts is not None:
        return from_file(args.prompts, args.out, common, args.videos, suffix)
    seeds = range(args.seed, args.seed + args.videos)
    return [replace(common, seed=seed, out=args.out / f"s{seed}{suffix}") for seed in seeds]
