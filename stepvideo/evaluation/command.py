"""`stepvideo evaluate`: scores of videos, of votes, of reconstructions. Light until it is called."""

from __future__ import annotations

import argparse
from collections.abc import Iterable

from stepvideo.evaluation import vbench
from stepvideo.evaluation import videos_command as videos
from stepvideo.evaluation import votes_command as votes
from stepvideo.evaluation.reconstruction import command as reconstruction
from stepvideo.subcommands import Command, add_commands

HELP = "score videos by metrics, votes by statistics, VAEs by what they give back; every mean has an interval"


# One line a sub-command; each module imports what it needs when it is called.
COMMANDS = (
    Command("videos", videos.HELP, videos.add_arguments, videos.call),
    Command("votes", votes.HELP, votes.add_arguments, votes.call),
    Command("plan", votes.PLAN_HELP, votes.add_plan_arguments, votes.plan),
    Command("export-vbench", vbench.HELP, vbench.add_arguments, vbench.call),
    Command("reconstruction", reconstruction.HELP, reconstruction.add_arguments, reconstruction.call),
)


def add_arguments(parser: argparse.ArgumentParser, others: Iterable[Command] = ()) -> None:
    """The sub-commands of this package, and `others` that need what lies above it."""
    add_commands(parser, (*COMMANDS, *others))
