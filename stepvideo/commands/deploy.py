"""What Prefect is told of the project, and answers to runs that wait for a person: deploy, approve."""

from __future__ import annotations

import argparse

from stepvideo.commands.arguments import add_json, add_store
from stepvideo.subcommands import Command


def _deploy_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--file", metavar="FILE", help="instead of the repository's prefect.yaml")
    parser.add_argument("--pool", default="", metavar="NAME", help="one work pool for all, made if it is not there")
    parser.add_argument("--work-pool-type", default="", metavar="TYPE", help="of a new pool (process)")
    text = "switch on the schedules and triggers of a deployment, FLOW/NAME; what was switched before stays as it is"
    parser.add_argument("--on", nargs="+", default=[], metavar="NAME", help=text)
    add_json(parser)


def _approve_arguments(parser: argparse.ArgumentParser) -> None:
    text = "key of the question, or id or name of the flow run; left out: prints what waits"
    parser.add_argument("run", nargs="?", default="", metavar="RUN", help=text)
    parser.add_argument("--reject", action="store_true", help="no instead of yes")
    parser.add_argument("--by", default="", metavar="NAME", help="who decides (the user who types)")
    parser.add_argument("--note", default="", metavar="TEXT", help="why; recorded with the decision")
    add_json(parser)
    add_store(parser)


def _deploy(args: argparse.Namespace) -> int:
    from flows.deployments import deploy_command

    return deploy_command(args.file, args.pool, args.work_pool_type, args.on, args.json)


def _approve(args: argparse.Namespace) -> int:
    from flows.approve_command import approve_command

    return approve_command(args.run, args.store, args.reject, args.by, args.note, args.json)


COMMANDS = (
    Command(
        "deploy", "register deployments, schedules and notifications with a Prefect server", _deploy_arguments, _deploy
    ),
    Command("approve", "answer a run that waits for a person, or list them", _approve_arguments, _approve),
)
