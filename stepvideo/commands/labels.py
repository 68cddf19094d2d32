"""`stepvideo label`: as the labelling has it, and new labels are a reason to retrain."""

from __future__ import annotations

import argparse

from stepvideo.curation.labelling import command
from stepvideo.curation.labelling.command import HELP

__all__ = ["HELP", "add_arguments", "call"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    command.add_arguments(parser)


def call(args: argparse.Namespace) -> int:
    """Raises StepVideoError, as the labelling does."""
    code = command.call(args)
    if code == 0 and hasattr(args, "answers"):
        from flows.retrain_command import labels_added

        labels_added(args.store, args.out)
    return code
