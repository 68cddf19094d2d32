"""`stepvideo balance`: what balancing packs over ranks gives. Torch-free."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from stepvideo.errors import StepVideoError

if TYPE_CHECKING:
    from stepvideo.models.config import DiTConfig

HELP = "utilisation of data-parallel ranks on Table 3's mix of videos and images, by method of balancing"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--table", action="store_true", help="print a table (the default)")
    form.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--check", action="store_true", help="exit 1 unless hybrid with 8 images a rank reaches 0.98")
    parser.add_argument("--ranks", type=_count, default=8, metavar="N", help="data-parallel ranks, one pack each (8)")
    parser.add_argument(
        "--images", type=_count, nargs="+", default=[4, 8, 16], metavar="N", help="images a rank and step (4 8 16)"
    )
    parser.add_argument(
        "--shares",
        type=_shares,
        default="packs",
        metavar="HOW",
        help="packs: equally many packs of every row of videos; samples: equally many samples; or six numbers with "
        "commas between them, which weigh the samples of each row (packs)",
    )
    parser.add_argument("--seeds", type=_count, default=10, metavar="N", help="seeds 0 to N - 1 (10)")
    parser.add_argument("--steps", type=_count, default=1000, metavar="N", help="global steps for each seed (1000)")
    parser.add_argument("--model", default="30b", metavar="NAME", help="30b, 4b, or a folder in the released layout")
    parser.add_argument("--text", type=_count, default=256, metavar="N", help="text tokens of a sample (256)")


def call(args: argparse.Namespace) -> int:
    """Prints the result; 0: done, 1: below the bar.

    Raises:
        StepVideoError: an unknown model, or `--check` without what it checks.
    """
    from stepvideo.data.balance_table import BAR_IMAGES, Stream, survey, table

    if args.check and BAR_IMAGES not in args.images:
        raise StepVideoError(f"--check looks at {BAR_IMAGES} images a rank: add {BAR_IMAGES} to --images")
    stream = Stream(args.ranks, args.steps, args.seeds, args.shares)
    result = survey(args.model, _model(args.model), args.text, stream, args.images)
    print(json.dumps(result, indent=1) if args.json else table(result))
    return 1 if args.check and not result["ok"] else 0


def _model(name: str) -> DiTConfig:
    from stepvideo.models.config import DiTConfig
    from stepvideo.models.config_files import dit_config

    if name == "30b":
        return DiTConfig()
    if name == "4b":  # as in conf/profile/4b.yaml; the report gives its size only
        return DiTConfig(num_attention_heads=24, num_layers=26)
    if Path(name).is_dir():
        return dit_config(Path(name))
    raise StepVideoError(f"--model {name}: give 30b, 4b, or a folder that holds transformer/config.json")


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number above 0")
    return int(text)


def _shares(text: str) -> str | tuple[float, ...]:
    if text in ("packs", "samples"):
        return text
    try:
        weights = tuple(float(part) for part in text.split(","))
    except ValueError:
        weights = ()
    if len(weights) != 6 or not all(0 < w < float("inf") for w in weights):
        raise argparse.ArgumentTypeError(f"{text!r}: give packs, samples, or six numbers above 0, such as 1,1,2,2,3,3")
    return weights
