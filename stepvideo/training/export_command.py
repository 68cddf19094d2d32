"""`stepvideo export-checkpoint STAGE_DIR --out DIR`: the model that a training has come to, while it goes on."""

from __future__ import annotations

import argparse
from pathlib import Path

from stepvideo.subcommands import STAGE_DIR, needs

HELP = "a training checkpoint, of any number of ranks, as a model in the released layout"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("stage", type=Path, metavar="STAGE_DIR", help="directory of a stage that trains, or was killed")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="where the model goes; must not exist")
    parser.add_argument("--step", type=int, metavar="N", help="which checkpoint; the newest intact one by default")
    parser.add_argument("--ema", action="store_true", help="the averaged weights instead of the last ones")


def call(args: argparse.Namespace) -> int:
    needs(args.stage, "spec.json", STAGE_DIR)

    from stepvideo.training.export import export_checkpoint

    done = export_checkpoint(args.stage, args.out, args.step, args.ema)
    print(f"{args.out}: {done.tensors} tensors of step {done.step}")
    return 0
