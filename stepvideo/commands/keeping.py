"""Keeping a store small, whole and readable: gc, archive, unarchive, upgrade."""

from __future__ import annotations

import argparse

from stepvideo.commands.arguments import add_json, add_store
from stepvideo.subcommands import Command


def _gc_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--apply", action="store_true", help="remove it; without this nothing is changed")
    parser.add_argument(
        "--older-than", default="30d", metavar="AGE", help="what was used later stays: 12h, 30d, 8w (30d)"
    )
    parser.add_argument("--keep-runs", type=int, default=5, metavar="N", help="the newest runs stay at any age (5)")
    text = "a file or folder (studies, notes) whose text names keys or digests of artifacts: these stay"
    parser.add_argument("--keep-for", action="append", default=[], metavar="PATH", help=text)
    parser.add_argument("--what", action="store_true", help="sizes by category only")
    parser.add_argument("--only", default="", metavar="NAMES", help="these categories only: logs,snapshots")
    text = "do not ask MLflow's registry; models that are registered there may be removed then"
    parser.add_argument("--without-registry", action="store_true", help=text)
    pins = parser.add_mutually_exclusive_group()
    pins.add_argument("--pin", metavar="RUN", help="instead: keep this run for good")
    pins.add_argument("--unpin", metavar="RUN", help="instead: keep it no longer than others")
    add_json(parser)
    add_store(parser)


def _gc(args: argparse.Namespace) -> int:
    from flows.gc import Asked, gc_command, pin_command

    if args.pin or args.unpin:
        return pin_command(args.store, args.pin or args.unpin, bool(args.pin))
    only = tuple(filter(None, args.only.split(",")))
    asked = Asked(
        older_than=args.older_than,
        keep_runs=args.keep_runs,
        keep_for=tuple(args.keep_for),
        only=only,
        registry=not args.without_registry,
        apply=args.apply,
        what=args.what,
        as_json=args.json,
    )
    return gc_command(args.store, asked)


COMMANDS = (Command("gc", "what of a store nobody needs any more; --apply removes it", _gc_arguments, _gc),)
