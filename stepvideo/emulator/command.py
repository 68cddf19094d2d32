"""`stepvideo emulate`: what a training needs and how long it takes, before it is launched. Light until it is called."""

from __future__ import annotations

import argparse
from collections.abc import Iterable

from stepvideo.emulator import calibrate_command as calibrate
from stepvideo.emulator import table_command as tables
from stepvideo.emulator import timeline_command as timeline
from stepvideo.subcommands import Command, add_commands

HELP = "does it fit, how long is a step, which parallelism is best: before anything is launched (no GPU needed)"


COMMANDS = (
    Command("calibrate", calibrate.HELP, calibrate.add_arguments, calibrate.call),
    Command("table2", tables.TABLE2, tables.add_arguments, tables.table2),
    Command("table3", tables.TABLE3, tables.add_arguments, tables.table3),
    Command("timeline", timeline.HELP, timeline.add_arguments, timeline.call),
)


def add_arguments(parser: argparse.ArgumentParser, others: Iterable[Command] = ()) -> None:
    """The sub-commands of this package, and `others` that need what lies above it."""
    add_commands(parser, (*others, *COMMANDS))
