"""Running it: plan, run, align, curate."""

from __future__ import annotations

import argparse

from stepvideo.commands.arguments import add_json, add_overrides
from stepvideo.subcommands import Command

TABLES = "print JSON instead of tables"


def _cascade_arguments(parser: argparse.ArgumentParser) -> None:
    add_overrides(parser)
    parser.add_argument("--until", metavar="STAGE", help="this stage and what it needs, for example sft or average")
    add_json(parser, TABLES)


def _align_arguments(parser: argparse.ArgumentParser) -> None:
    _cascade_arguments(parser)
    parser.add_argument("--studies", required=True, metavar="DIR", help="folder of the studies, one a judged stage")
    parser.add_argument(
        "--study", action="append", default=[], metavar="KEY=VALUE", help="of a study, such as raters=3"
    )


def _curate_arguments(parser: argparse.ArgumentParser) -> None:
    text = "or s3://BUCKET/FOLDER; searched with its subfolders; captions from sidecars.jsonl if any"
    parser.add_argument("folder", metavar="DIR", help=text)
    parser.add_argument("--out", metavar="STORE", help="where artifacts are kept (runs/store)")
    add_overrides(parser, "settings, such as stages.curate.segment.trim=0")
    add_json(parser, TABLES)


def _plan(args: argparse.Namespace) -> int:
    from flows.run import plan_command

    return plan_command(args.overrides, args.until, args.json)


def _run(args: argparse.Namespace) -> int:
    from flows.run import run_command

    return run_command(args.overrides, args.until, args.json)


def _align(args: argparse.Namespace) -> int:
    from flows.align import Asked
    from flows.align_command import align_command

    return align_command(Asked(args.overrides, args.studies, args.until or "", args.study), args.json)


def _curate(args: argparse.Namespace) -> int:
    from flows.run import run_command

    # the schema of the config follows the graph, hence both
    settings = ["graph=flows.curate", "profile=curate", f"raw={_quoted(args.folder)}"]
    settings += [f"store={_quoted(args.out)}"] if args.out else []
    return run_command(settings + args.overrides, None, args.json)


def _quoted(text: str) -> str:
    """A value for Hydra, whatever is in it."""
    return "'" + text.replace("'", "\\'") + "'"


COMMANDS = (
    Command("plan", "what a run would do and why; changes nothing", _cascade_arguments, _plan),
    Command(
        "run",
        "run the cascade; the same command again goes on or takes everything from the store",
        _cascade_arguments,
        _run,
    ),
    Command(
        "align",
        "the cascade with people's votes on its preference pairs: waits for their studies",
        _align_arguments,
        _align,
    ),
    Command(
        "curate",
        "a folder of videos and images to clips, tags, subsets and a page to look at them",
        _curate_arguments,
        _curate,
    ),
)
