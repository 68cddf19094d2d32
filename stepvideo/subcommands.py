"""A command of several sub-commands, each of which may come from another package; light, as `--help` reads them all."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable
from typing import NamedTuple


class Command(NamedTuple):
    """One sub-command."""

    name: str
    help: str
    add_arguments: Callable[[argparse.ArgumentParser], None]
    call: Callable[[argparse.Namespace], int]


def add_commands(parser: argparse.ArgumentParser, commands: Iterable[Command], metavar: str = "WHAT") -> None:
    """Make each of `commands` a choice of `parser`."""
    choices = parser.add_subparsers(required=True, metavar=metavar)
    for c in commands:
        sub = choices.add_parser(c.name, help=c.help, description=c.help)
        sub.set_defaults(call=c.call)
        c.add_arguments(sub)
