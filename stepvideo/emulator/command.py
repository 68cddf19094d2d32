"""`stepvideo emulate`: what a training needs and how long it takes, before it is launched. Light until it is called."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from stepvideo.emulator import calibrate_command as calibrate
from stepvideo.emulator import table_command as tables
from stepvideo.emulator import timeline_command as timeline

HELP = "does it fit, how long is a step, which parallelism is best: before anything is launched (no GPU needed)"


@dataclass(frozen=True)
class Command:
    """One sub-command."""

    name: str
    help: str
    add_arguments: Callable[[argparse.ArgumentParser], None]
    call: Callable[[argparse.Namespace], int]


COMMANDS = (
    Command("calibrate", calibrate.HELP, calibrate.add_arguments, calibrate.call),
    Command("table2", tables.TABLE2, tables.add_arguments, tables.table2),
    Command("table3", tables.TABLE3, tables.add_arguments, tables.table3),
    Command("timeline", timeline.HELP, timeline.add_arguments, timeline.call),
)


def add_arguments(parser: argparse.ArgumentParser, others: Iterable[Command] = ()) -> None:
    """The sub-commands of this package, and `others` that need what lies above it."""
    choices = parser.add_subparsers(required=True, metavar="WHAT")
    for c in (*others, *COMMANDS):
        sub = choices.add_parser(c.name, help=c.help, description=c.help)
        sub.set_defaults(call=c.call)
        c.add_arguments(sub)
