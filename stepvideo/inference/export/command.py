"""`stepvideo export OUT`: one folder in the released layout, from the parts that were trained."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from stepvideo.errors import StepVideoError

HELP = "put a trained model together as one folder in the released layout"

Located = tuple[dict[str, Any], dict[str, str]]  # folders by role: model, vae, text; names of the weights


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The caller adds --model, --vae and --text."""
    parser.add_argument("out", type=Path, metavar="OUT", help="the folder to make")
    parser.add_argument(
        "--copy", action="store_true", help="copy the weights; otherwise they are hard links if possible"
    )


def folders(args: argparse.Namespace) -> Located:
    """--model, --vae and --text as folders; the last two are by default the first."""
    if not args.model:
        raise StepVideoError("give --model DIR, the folder that holds transformer/")
    given = {role: Path(getattr(args, role) or args.model) for role in ("model", "vae", "text")}
    return dict(given), {role: path.resolve().name for role, path in given.items()}


def call(args: argparse.Namespace, locate: Callable[[argparse.Namespace], Located] = folders) -> int:
    """Prints what was made, and what other software needs to know of it.

    Args:
        locate: finds what --model, --vae, --text name.
    """
    from stepvideo.inference.export.assemble import assemble

    where, names = locate(args)
    model = where["model"]
    notices = assemble(args.out, model, where.get("vae") or model, where.get("text") or model, args.copy)
    print(f"{args.out}: " + ", ".join(f"{role} {name}" for role, name in names.items()))
    for notice in notices:
        print(f"for other software: {notice}")
    return 0
