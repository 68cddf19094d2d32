"""Options of `stepvideo suite generate`. Torch-free."""

from __future__ import annotations

import argparse
from pathlib import Path

from stepvideo.inference import arguments

HELP = "make the videos of a suite with their manifest; the same command goes on after an interruption"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("suite", type=Path, metavar="SUITE", help="of `stepvideo suite import`")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="for the videos and their manifest")
    parser.add_argument("--seeds", type=int, default=1, metavar="N", help="videos a prompt and language (1)")
    parser.add_argument("--seed", type=int, default=0, metavar="INT", help="of the first; the others count up (0)")
    text = "draw seeds from the prompt's id: else sample n of every prompt starts from the same noise"
    parser.add_argument("--own-noise", action="store_true", help=text)
    parser.add_argument("--lang", default="", metavar="zh|en|zh,en", help="of the prompts (the suite's first)")
    parser.add_argument("--images", type=Path, metavar="FOLDER", help="with the first frames that the suite names")
    text = "leave out prompts whose first frame is not there; their videos stay missing"
    parser.add_argument("--partial", action="store_true", help=text)
    text = "make every Nth video from the Ith on; in a Slurm array its element, if not given"
    parser.add_argument("--part", default="", metavar="I/N", help=text)
    parser.add_argument("--crf", type=int, default=12, metavar="INT", help="of the mp4: 0 lossless, 18 by eye (12)")
    text = "yuv420p plays everywhere; yuv444p keeps the colour edges of small videos"
    parser.add_argument("--pix-fmt", default="yuv420p", choices=("yuv420p", "yuv444p"), help=text)
    arguments.add_settings(parser)
    arguments.add_machine(parser)
    arguments.add_ranks(parser)
    parser.add_argument("--json", action="store_true", help="print JSON instead of progress")
