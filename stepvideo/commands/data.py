"""Versions of data: `stepvideo data …`."""

from __future__ import annotations

import argparse

from stepvideo.commands.arguments import REF, add_store
from stepvideo.subcommands import Command, add_commands

HELP = "curated data to a bucket or to DVC, and back"


def _publish_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("refs", nargs="+", metavar="REF", help=REF)
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--to", metavar="URL", help="s3://BUCKET/FOLDER or a folder; an interrupted copy goes on")
    where.add_argument("--name", help="a version: versions/NAME.dvc, to commit; its data go to the DVC remote")
    add_store(parser)


def _checkout_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("what", metavar="NAME|URL", help="a version of this checkout, or URL/STAGE/KEY")
    add_store(parser)


def _publish(args: argparse.Namespace) -> int:
    from flows.data import publish_command

    return publish_command(args.store, args.refs, args.to, args.name)


def _checkout(args: argparse.Namespace) -> int:
    from flows.data import checkout_command

    return checkout_command(args.store, args.what)


VERBS = (
    Command(
        "publish",
        "copy artifacts to a bucket or folder, or record them with DVC as a version of the data",
        _publish_arguments,
        _publish,
    ),
    Command("checkout", "bring published artifacts back into a store, byte for byte", _checkout_arguments, _checkout),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_commands(parser, VERBS, "VERB")
