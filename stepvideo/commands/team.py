"""A team's servers on this machine: `stepvideo team start | stop | status`."""

from __future__ import annotations

import argparse

from stepvideo.commands.arguments import add_json, add_store
from stepvideo.subcommands import Command, add_commands

HELP = "PostgreSQL, S3, MLflow, Prefect and a worker on this machine, for tracking=team"


def _folder(parser: argparse.ArgumentParser) -> None:
    text = "where the stack keeps its data, logs and secrets ($STEPVIDEO_TEAM, else runs/team)"
    parser.add_argument("--folder", metavar="DIR", help=text)


def _only(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("only", nargs="*", metavar="SERVICE", help="only these, for example prefect worker")


def _start_arguments(parser: argparse.ArgumentParser) -> None:
    _only(parser)
    _folder(parser)
    parser.add_argument("--port", type=int, help="the first of its ports on 127.0.0.1, thirty in a row (26300)")
    add_store(parser)


def _stop_arguments(parser: argparse.ArgumentParser) -> None:
    _only(parser)
    _folder(parser)


def _status_arguments(parser: argparse.ArgumentParser) -> None:
    _folder(parser)
    add_json(parser)


def _start(args: argparse.Namespace) -> int:
    from flows.team import start_command

    return start_command(args.folder, args.port, args.store, args.only)


def _stop(args: argparse.Namespace) -> int:
    from flows.team import stop_command

    return stop_command(args.folder, args.only)


def _status(args: argparse.Namespace) -> int:
    from flows.team import status_command

    return status_command(args.folder, args.json)


def _upgrade(args: argparse.Namespace) -> int:
    from flows.team import upgrade_command

    return upgrade_command(args.folder)


VERBS = (
    Command("start", "start what does not run; the same again is harmless", _start_arguments, _start),
    Command("stop", "end what was started, the last first; data stay", _stop_arguments, _stop),
    Command("upgrade", "databases of an older MLflow or Prefect to what is installed, after a dump", _folder, _upgrade),
    Command("status", "which services run and answer", _status_arguments, _status),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_commands(parser, VERBS, "VERB")
