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


def _archive_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", nargs="?", default="last", metavar="RUN", help="id of a run, its end, or last (last)")
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--out", metavar="FILE.tar", help="the archive to write; must not be there")
    where.add_argument("--check", metavar="FILE.tar", help="instead: read an archive through and verify every byte")
    text = "artifacts to put into it: models, videos, all, or stages, with commas; none by default"
    parser.add_argument("--with", dest="wanted", default="", metavar="NAMES", help=text)
    add_json(parser)
    add_store(parser)


def _unarchive_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE.tar", help="what `stepvideo archive` has written")
    add_json(parser)
    add_store(parser)


def _upgrade_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--apply", action="store_true", help="do it; without this nothing is changed")
    text = "instead of the store's files: the databases of MLflow and Prefect that its runs told"
    parser.add_argument("--databases", action="store_true", help=text)
    text = "with --databases: this one; mlflow=$NAME takes the URL from the environment, as passwords must be"
    parser.add_argument("--url", action="append", default=[], metavar="OWNER=URL", help=text)
    add_json(parser)
    add_store(parser)


def _upgrade(args: argparse.Namespace) -> int:
    from flows.upgrade import databases_command, upgrade_command

    if args.databases:
        return databases_command(args.store, args.url, args.apply, args.json)
    return upgrade_command(args.store, args.apply, args.json)


def _archive(args: argparse.Namespace) -> int:
    from flows.archive import archive_command, check_command

    if args.check:
        return check_command(args.check, args.json)
    return archive_command(args.store, args.run, args.out, list(filter(None, args.wanted.split(","))), args.json)


def _unarchive(args: argparse.Namespace) -> int:
    from flows.archive import unarchive_command

    return unarchive_command(args.store, args.file, args.json)


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


COMMANDS = (
    Command("gc", "what of a store nobody needs any more; --apply removes it", _gc_arguments, _gc),
    Command(
        "archive", "a run as one file: its record, metrics, pages and chosen artifacts", _archive_arguments, _archive
    ),
    Command(
        "unarchive", "the artifacts of an archived run into a store, byte for byte", _unarchive_arguments, _unarchive
    ),
    Command(
        "upgrade", "a store's files, or MLflow's and Prefect's databases, to this version", _upgrade_arguments, _upgrade
    ),
)
