"""What the sub-commands of `stepvideo study` share. Light until called."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from stepvideo.preference.session import Session

DATABASE_VARIABLE = "STEPVIDEO_STUDY_DATABASE"


def add_study(parser: argparse.ArgumentParser) -> None:
    """The folder of a study, and where its votes are."""
    parser.add_argument("study", type=Path, metavar="DIR", help="folder of the study")
    parser.add_argument(
        "--database", default="", metavar="URL",
        help=f"postgresql://… instead of votes.db in the folder; or {DATABASE_VARIABLE}, which ps does not show",
    )  # fmt: skip


def open_session(args: argparse.Namespace) -> Session:
    """The study and its votes. Raises StepVideoError."""
    import os

    from stepvideo.preference.session import Session
    from stepvideo.preference.store import Store
    from stepvideo.preference.study import load

    study = load(args.study)
    url = args.database or os.environ.get(DATABASE_VARIABLE, "")
    return Session(study, Store(args.study, study.opaque("database"), url))
