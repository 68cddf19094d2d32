"""Versions of data: `stepvideo data …`."""

from __future__ import annotations

import argparse

from stepvideo.commands.arguments import REF, add_json, add_store
from stepvideo.subcommands import Command, add_commands

HELP = "versions of curated data: publish, checkout, log, diff, verify"
THRESHOLD = 0.2  # of the population stability index, from which on a column is said to have drifted


def _publish_arguments(parser: argparse.ArgumentParser) -> None:
    text = REF + "; by default the newest subsets of the store and all data that they come from"
    parser.add_argument("refs", nargs="*", metavar="REF", help=text)
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--to", metavar="URL", help="no version, a copy: s3://BUCKET/FOLDER or a folder; goes on if cut")
    where.add_argument("--name", help="of the version: versions/NAME.dvc, to commit (the next of v1, v2, …)")
    parser.add_argument("-m", "--message", default="", metavar="TEXT", help="what is in it, for `stepvideo data log`")
    parser.add_argument("--force", default="", metavar="REASON", help="publish although the gate failed; is recorded")
    add_store(parser)
    add_json(parser)


def _checkout_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("what", metavar="NAME|URL", help="a version of this checkout, or URL/STAGE/KEY")
    add_store(parser)


def _diff_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("a", metavar="A", help="a version")
    parser.add_argument("b", metavar="B", nargs="?", help="another one; by default what the store holds now")
    parser.add_argument("--set", default="", metavar="SET", help="clips whose tags are compared: s1 … s6, or all (s1)")
    help = f"population stability index from which on a column has drifted ({THRESHOLD})"
    parser.add_argument("--threshold", type=float, default=THRESHOLD, metavar="PSI", help=help)
    parser.add_argument("--page", metavar="FILE", help="where the page of plots goes (runs/diff-A-B.html)")
    add_store(parser)
    add_json(parser)


def _verify_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME|all", help="a version of this checkout, or all of them")
    parser.add_argument("--quick", action="store_true", help="ask the remote only whether it has the files")
    text = "drop what is damaged here, and send what the remote lacks from what is whole here"
    parser.add_argument("--repair", action="store_true", help=text)
    add_json(parser)


def _publish(args: argparse.Namespace) -> int:
    from flows.data import publish_command

    return publish_command(args.store, args.refs, args.to, args.name, args.message, args.force, args.json)


def _checkout(args: argparse.Namespace) -> int:
    from flows.data import checkout_command

    return checkout_command(args.store, args.what)


def _log(args: argparse.Namespace) -> int:
    from flows.data_log import log_command

    return log_command(args.json)


def _diff(args: argparse.Namespace) -> int:
    from flows.data_diff import diff_command

    return diff_command(args.store, args.a, args.b, args.set, args.threshold, args.page, args.json)


def _verify(args: argparse.Namespace) -> int:
    from flows.data_log import verify_command

    return verify_command(args.name, args.quick, args.repair, args.json)


VERBS = (
    Command("publish", "give data to DVC as a version, or copy them to a bucket", _publish_arguments, _publish),
    Command("checkout", "bring published artifacts back into a store, byte for byte", _checkout_arguments, _checkout),
    Command("log", "the versions, newest first: who, when, clips, hours, verdict of the gate", add_json, _log),
    Command("diff", "what changed: clips in and out by reason, drift of tags and of concepts", _diff_arguments, _diff),
    Command("verify", "whether every file of a version is whole, in the remote and here", _verify_arguments, _verify),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_commands(parser, VERBS, "VERB")
