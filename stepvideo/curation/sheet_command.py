"""`stepvideo sheet`: the contact sheet of a catalog, from whichever of its artifacts one names."""

from __future__ import annotations

import argparse
from pathlib import Path

from stepvideo.curation import places
from stepvideo.curation.sheet_config import SheetConfig
from stepvideo.errors import ConfigError

HELP = "a folder with a page that shows clips of a curated catalog, why each is in or out, and figures of all"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    places.add_arguments(parser)
    default = SheetConfig()
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="index.html and media/ go there")
    parser.add_argument("--clips", type=int, default=default.clips, metavar="INT", help=f"shown ({default.clips})")
    parser.add_argument(
        "--seconds", type=float, default=default.seconds, metavar="S", help=f"of each that play ({default.seconds:g})"
    )


def call(args: argparse.Namespace) -> int:
    """Raises StepVideoError when there is no catalog, or an option cannot be."""
    from stepvideo.curation.sheet import write_report

    try:
        config = SheetConfig(clips=args.clips, seconds=args.seconds)
    except ValueError as e:
        raise ConfigError(f"sheet: {e}") from e
    print(write_report(args.out, **places.locate(args), config=config))
    return 0
