"""What Prefect is told of the project, and answers to runs that wait for a person: deploy, approve."""

from __future__ import annotations

import argparse

from stepvideo.commands.arguments import add_json, add_store
from stepvideo.subcommands import Command


def _approve_arguments(parser: argparse.ArgumentParser) -> None:
    text = "key of the question, or id or name of the flow run; left out: prints what waits"
    parser.add_argument("run", nargs="?", default="", metavar="RUN", help=text)
    parser.add_argument("--reject", action="store_true", help="no instead of yes")
    parser.add_argument("--by", default="", metavar="NAME", help="who decides (the user who types)")
    parser.add_argument("--note", default="", metavar="TEXT", help="why; recorded with the decision")
    add_json(parser)
    add_store(parser)


def _approve(args: argparse.Namespace) -> int:
    from flows.approve_command import approve_command

    return approve_command(args.run, args.store, args.reject, args.by, args.note, args.json)


COMMANDS = (Command("approve", "answer a run that waits for a person, or list them", _approve_arguments, _approve),)
