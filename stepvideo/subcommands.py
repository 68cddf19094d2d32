"""A command of several sub-commands, each of which may come from another package; light, as `--help` reads them all."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

from stepvideo.errors import ConfigError

STAGE_DIR = "the folder of a stage, STORE/STAGE/KEY"
MODEL_DIR = "a model's folder, such as the `out` of a stage that trains the DiT"


class Command(NamedTuple):
    """One sub-command."""

    name: str
    help: str
    add_arguments: Callable[[argparse.ArgumentParser], None]
    call: Callable[[argparse.Namespace], int]


def needs(folder: Path, file: str, instead: str) -> None:
    """Check that a folder that people gave is what it should be, by a file in it.

    Raises:
        ConfigError: names the folder, what it has not, and what to give instead.
    """
    if not (folder / file).is_file():
        found = "has no " + file if folder.is_dir() else "is no folder"
        raise ConfigError(f"{folder} {found}; give {instead}")


def add_commands(parser: argparse.ArgumentParser, commands: Iterable[Command], metavar: str = "WHAT") -> None:
    """Make each of `commands` a choice of `parser`."""
    choices = parser.add_subparsers(required=True, metavar=metavar)
    for c in commands:
        sub = choices.add_parser(c.name, help=c.help, description=c.help)
        sub.set_defaults(call=c.call)
        c.add_arguments(sub)
