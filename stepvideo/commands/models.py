"""What was made: where it comes from, what differs, how it is used."""

from __future__ import annotations

import argparse

from stepvideo.commands.arguments import REF, add_json, add_model, add_store
from stepvideo.inference import arguments as generating
from stepvideo.subcommands import Command


def _lineage_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("ref", metavar="REF", help=f"a video file, or {REF}")
    parser.add_argument("--clips", action="store_true", help="also the raw files behind the model, with clips used")
    text = "also write a page: the video, what it was made from, the raw files with pictures of their clips"
    parser.add_argument("--html", metavar="FILE", help=text)
    add_json(parser)
    add_store(parser)


def _compare_arguments(parser: argparse.ArgumentParser) -> None:
    text = "run id (or its beginning, or its last six digits), latest, latest~1, " + REF + "; the first is the base"
    parser.add_argument("refs", metavar="RUN", nargs="+", help=text)
    parser.add_argument("--html", metavar="FILE", help="also write a page; its videos go to FILE_files beside it")
    parser.add_argument("--open", action="store_true", help="open the page in a browser")
    add_json(parser)
    add_store(parser)


def _card_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("ref", metavar="REF", help="a model or data: " + REF)
    parser.add_argument("--out", metavar="DIR", help="write DIR/README.md instead of printing")
    add_store(parser)


def _generate_arguments(parser: argparse.ArgumentParser) -> None:
    generating.add_arguments(parser)
    add_model(parser)
    add_store(parser)


def _lineage(args: argparse.Namespace) -> int:
    from flows.lineage_command import lineage_command

    return lineage_command(args.store, args.ref, args.clips, args.json, args.html)


def _compare(args: argparse.Namespace) -> int:
    from flows.comparison.command import compare_command

    return compare_command(args.store, args.refs, args.json, args.html, args.open)


def _card(args: argparse.Namespace) -> int:
    from flows.card import card_command

    return card_command(args.store, args.ref, args.out)


def _generate(args: argparse.Namespace) -> int:
    from flows.generate import generate_command

    return generate_command(args)


COMMANDS = (
    Command(
        "lineage",
        "what an artifact or a video was made from, down to the raw data, and how to make it again",
        _lineage_arguments,
        _lineage,
    ),
    Command(
        "compare",
        "what differs between runs or artifacts: settings, curves, metrics with intervals, videos, cost, lineage",
        _compare_arguments,
        _compare,
    ),
    Command("card", "a model card or a data card, written from lineage", _card_arguments, _card),
    Command("generate", generating.HELP, _generate_arguments, _generate),
)
