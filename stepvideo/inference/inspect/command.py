"""`stepvideo inspect DIR`: what is this checkpoint, and is it whole? Torch-free until it is called."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path

from stepvideo.inference.inspect.gpu import CARDS, JOBS

HELP = "what a checkpoint is, what is missing or damaged, and whether it fits a card"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", type=Path, metavar="DIR", help="a model in the released layout, or any part of one")
    parser.add_argument("--deep", action="store_true", help="read every tensor: checksums, NaN and Inf (minutes)")
    cards = ", ".join(CARDS)
    parser.add_argument(
        "--gpu", action="append", default=[], metavar="SIZE", help=f"24GB, or one of {cards}; several times if wanted"
    )
    parser.add_argument("--job", choices=JOBS, default="generate", help="what the card is for (generate)")
    parser.add_argument("--json", action="store_true", help="print JSON instead of text")


def call(args: argparse.Namespace) -> int:
    """Prints the result; 0: whole, and the job fits every card; 1: damaged, parts that do not match, or no fit shown.

    Raises:
        ArtifactError: there is nothing of a model in the folder.
        StepVideoError: an unknown card.
    """
    from stepvideo.inference.inspect import deep
    from stepvideo.inference.inspect.gpu import gigabytes, judge
    from stepvideo.inference.inspect.report import report
    from stepvideo.inference.inspect.survey import survey

    cards = [gigabytes(name) for name in args.gpu]
    found = survey(args.folder)
    if args.deep:
        deep.look(found)
    verdicts = [judge(args.folder, args.job, card) for card in cards]
    if args.json:
        print(json.dumps(found.as_json() | {"cards": [asdict(v) for v in verdicts]}, indent=1, ensure_ascii=False))
    else:
        print(report(found, verdicts))
    return 0 if found.ok and all(v.fits for v in verdicts) else 1
