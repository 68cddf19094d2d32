"""`stepvideo suite`: prompt suites in, videos of them out with a manifest. Light until it is called."""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from stepvideo.errors import ConfigError
from stepvideo.evaluation.suites import world_command as world
from stepvideo.subcommands import Command, add_commands

if TYPE_CHECKING:
    from stepvideo.evaluation.suites.schema import Suite

HELP = "prompt suites: import public files, generate their videos with a manifest, adopt videos that are there"
FORMATS = ("t2v-eval", "ti2v-eval", "vbench", "moviegen", "lines")


def add_arguments(parser: argparse.ArgumentParser, others: Iterable[Command] = ()) -> None:
    """The sub-commands of this package, and `others` that need what lies above it."""
    add_commands(parser, (*COMMANDS, *others), "VERB")


def _add_import(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("format", choices=FORMATS, metavar="FORMAT", help=", ".join(FORMATS))
    parser.add_argument("path", type=Path, metavar="PATH", help="the public file or folder")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE.jsonl")
    parser.add_argument("--lang", default="zh", choices=("zh", "en"), help="of the format lines (zh)")
    text = "a line a prompt, in the same order, in the language that the suite lacks"
    parser.add_argument("--other-language", type=Path, metavar="FILE", help=text)
    text = "take a file that differs from the public one; the suite will say how"
    parser.add_argument("--allow-different", action="store_true", help=text)
    _add_json(parser)


def _add_suite(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("suite", type=Path, metavar="SUITE", help="of `stepvideo suite import`")
    _add_json(parser)


def _add_show(parser: argparse.ArgumentParser) -> None:
    _add_suite(parser)
    parser.add_argument("--id", default="", metavar="ID", help="this prompt alone")


def _add_status(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", type=Path, metavar="DIR", help="of `stepvideo suite generate` or `adopt`")
    _add_json(parser)


def _add_adopt(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", type=Path, metavar="DIR", help="with the videos; a manifest is written there")
    parser.add_argument("--suite", type=Path, required=True, metavar="SUITE")
    text = (
        "how files are named, without ending: '{id}', '{prompt50}', vbench ('{prompt}-{n}'), NNNN ('{number:04d}' from "
        "1, or '{number0:04d}' from 0); known are id, prompt, prompt50, lang, number, number0, and n, the sample from 0"
    )
    parser.add_argument("--naming", required=True, metavar="PATTERN", help=text.replace("%", "%%"))
    parser.add_argument("--lang", default="", choices=("", "zh", "en"), help="of the prompts (the suite's first)")
    parser.add_argument("--samples", type=int, default=1, metavar="N", help="videos a prompt, with {n} (1; vbench 5)")
    text = "adopt what is there though videos are missing; every result will say so"
    parser.add_argument("--partial", action="store_true", help=text)
    _add_json(parser)


def _add_json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print JSON")


def _import(args: argparse.Namespace) -> int:
    from stepvideo.evaluation.suites.importers import import_suite
    from stepvideo.evaluation.suites.schema import write

    suite = import_suite(
        args.format,
        args.path,
        allow_different=args.allow_different,
        other_language=args.other_language,
        lang=args.lang,
    )
    write(args.out, suite)
    _print(args, suite)
    if not args.json:
        print(f"next: stepvideo suite generate {args.out} --out DIR --seeds 1")
    return 0


def _list(args: argparse.Namespace) -> int:
    from stepvideo.evaluation.suites.importers import FORMATS as formats

    rows = [{"format": f.name, "what": f.what, "source": f.source, "licence": f.licence} for f in formats.values()]
    if args.json:
        print(json.dumps(rows, ensure_ascii=False, indent=1))
    else:
        for row in rows:
            print(f"{row['format']:10} {row['what']}\n{'':10} {row['source']} ({row['licence'] or 'your licence'})")
        print("next: stepvideo suite import FORMAT PATH --out suite.jsonl")
    return 0


def _show(args: argparse.Namespace) -> int:
    from stepvideo.evaluation.suites.schema import read

    suite = read(args.suite)
    prompts = [p for p in suite.prompts if args.id in ("", p.id)]
    if not prompts:
        raise ConfigError(f"--id {args.id}: {args.suite} has no such prompt")
    if args.json:
        print(json.dumps([p.row() for p in prompts], ensure_ascii=False, indent=1))
        return 0
    for p in prompts:
        print(f"{p.id:12} {p.category:18} {p.zh or p.en}" + (f"\n{'':32}{p.en}" if p.zh and p.en else ""))
    return 0


def _check(args: argparse.Namespace) -> int:
    """Every digest is checked on reading."""
    from stepvideo.evaluation.suites.schema import read

    _print(args, read(args.suite))
    return 0


def _status(args: argparse.Namespace) -> int:
    from stepvideo.evaluation.manifest import status

    found = status(args.folder)
    if args.json:
        print(json.dumps(found, ensure_ascii=False, indent=1))
    else:
        print(f"{args.folder}: {found['videos']} of {found['expected']} videos of {found['suite']}")
        for what in ("missing", "orphans", "changed"):
            if found[what]:
                more = f" and {len(found[what]) - 5} more" if len(found[what]) > 5 else ""
                print(f"{what}: {', '.join(found[what][:5])}{more}")
        print(f"next: stepvideo evaluate videos {args.folder}" if found["complete"] else "not complete")
    return 0 if found["complete"] else 1


def _adopt(args: argparse.Namespace) -> int:
    from stepvideo.evaluation.suites.adopt import adopt
    from stepvideo.evaluation.suites.schema import read

    made = adopt(args.folder, read(args.suite), args.naming, args.lang, args.samples, partial=args.partial)
    found = {"videos": len(made.videos), "missing": made.missing, "suite": made.suite["sha256"]}
    if args.json:
        print(json.dumps(found, ensure_ascii=False, indent=1))
    else:
        lacking = f", {len(made.missing)} missing" if made.missing else ""
        print(f"{args.folder}: {len(made.videos)} videos adopted{lacking}")
        print(f"next: stepvideo evaluate videos {args.folder}{' --partial' if made.missing else ''}")
    return 0


def _print(args: argparse.Namespace, suite: Suite) -> None:
    without = [p.id for p in suite.prompts if p.aux.get("image") and not p.aux.get("image_sha256")]
    if args.json:
        print(json.dumps({**suite.head(), "missing_images": without}, ensure_ascii=False, indent=1))
        return
    languages = " and ".join(suite.languages)
    print(f"{suite.name}: {len(suite.prompts)} prompts in {languages}, sha256 {suite.digest[:16]}")
    categories = Counter(p.category for p in suite.prompts if p.category)
    if categories:
        print("categories: " + ", ".join(f"{c} {n}" for c, n in categories.items()))
    for text in suite.differs:
        print(f"differs from the public file: {text}")
    for ids in suite.duplicates:
        print(f"the same text: {', '.join(ids)} (kept; one prompt where intervals are made)")
    if without:
        print(f"{len(without)} first frames are missing: {', '.join(without)}")


COMMANDS = (
    Command("import", "make a suite of a public prompt file", _add_import, _import),
    Command("world", world.HELP, world.add_arguments, world.call),
    Command("list", "the formats that can be imported, and where their files are", _add_json, _list),
    Command("show", "print a suite's prompts", _add_show, _show),
    Command("check", "check every digest of a suite, and report duplicates and differences", _add_suite, _check),
    Command("status", "which videos of a folder are there, missing, unknown or changed", _add_status, _status),
    Command("adopt", "write a manifest for videos that were made elsewhere", _add_adopt, _adopt),
)
