"""`stepvideo evaluate videos`: scores of every video of a manifest, with intervals. Light until it is called."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stepvideo.errors import ConfigError

if TYPE_CHECKING:
    from stepvideo.evaluation.manifest import Manifest
    from stepvideo.evaluation.metrics.base import Scores
    from stepvideo.evaluation.scoring import Choice

HELP = "score the videos of a folder with a manifest, or compare two such folders prompt by prompt"
RESULTS = "results"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", type=Path, metavar="DIR", help="of `stepvideo suite generate` or `adopt`")
    parser.add_argument("--against", type=Path, metavar="DIR", help="compare with this folder: paired differences")
    parser.add_argument("--metrics", default="", metavar="NAME,…", help="these alone (all)")
    text = "file or folder of a metric's weights; metrics that need some and have none give nulls"
    parser.add_argument("--weights", action="append", default=[], metavar="METRIC=PATH", help=text)
    parser.add_argument("--workers", type=int, default=0, metavar="N", help="processes (one a core)")
    parser.add_argument("--partial", action="store_true", help="score what is there; every result says what is missing")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="for results (DIR/results)")
    parser.add_argument("--json", action="store_true", help="print results.json instead of a table")


def call(args: argparse.Namespace) -> int:
    """Raises StepVideoError, before anything is measured, for a folder that is not whole."""
    from stepvideo import storage
    from stepvideo.evaluation import videos_page
    from stepvideo.evaluation.manifest import load
    from stepvideo.evaluation.summary import check_pairs, contrast

    choice = choice_of(args)
    out: Path = args.out or args.folder / RESULTS
    a = load(args.folder, args.partial)
    b = load(args.against, args.partial) if args.against else None
    if b is not None and (why := check_pairs(a, b, args.partial)):
        raise ConfigError(f"{args.folder} and {args.against} cannot be compared: {why}")
    scores, found = _scored(args, a, choice, out)
    name = "results"
    if b is not None:
        others, _ = _scored(args, b, choice, args.against / RESULTS)
        found, name = contrast(a, b, scores, others, choice.metrics), "comparison"
        storage.write_json(out / "comparison.json", found)
    contrasted = b is not None
    for ending, text in (("md", videos_page.markdown), ("html", videos_page.html)):
        storage.write_atomic(out / f"{name}.{ending}", text(found, contrasted))
    if args.json:
        print(json.dumps(found, ensure_ascii=False, indent=1, sort_keys=True))
        return 0
    print(videos_page.lead(found, contrasted))
    if contrasted:
        print(_aligned(*videos_page.contrast_table(found)))
    else:
        print(_aligned(*videos_page.values_table(found)))
        for names, n, why in videos_page.nulls_table(found)[1]:
            print(f"not measured on {n}: {names} ({why})")
    print(f"{out / name}.json, .md, .html")
    print("next: " + _next(args))
    return 0


def choice_of(args: argparse.Namespace) -> Choice:
    """The metrics asked for, opened once so that a mistake is told before the work. Raises ConfigError."""
    from stepvideo.evaluation.scoring import Choice

    if args.workers < 0:
        raise ConfigError(f"--workers {args.workers}: give 1 or more, or 0 for one a core")
    names = tuple(name.strip() for name in args.metrics.split(",") if name.strip())
    weights = []
    for given in args.weights:
        metric, equals, path = given.partition("=")
        if not equals or not path:
            raise ConfigError(f"--weights {given!r}: give METRIC=PATH, for example clip_score=clip.safetensors")
        weights.append((metric, path))
    choice = Choice(names, tuple(weights))
    _ = choice.metrics
    return choice


def _scored(
    args: argparse.Namespace, found: Manifest, choice: Choice, out: Path
) -> tuple[list[Scores], dict[str, Any]]:
    from stepvideo import storage
    from stepvideo.evaluation.scoring import score
    from stepvideo.evaluation.summary import rows, summary

    def say(done: int, total: int) -> None:
        end = "\n" if done == total else "\r"
        if sys.stderr.isatty() or done == total:
            print(f"{found.folder}: {done} of {total} videos", end=end, file=sys.stderr, flush=True)

    scores = score(found, choice, args.workers, on_done=say)
    result = summary(found, scores, choice.metrics)
    storage.write_atomic(out / "scores.jsonl", rows(found, scores))
    storage.write_json(out / "results.json", result)
    return scores, result


def _aligned(head: Any, rows: Any) -> str:
    lines = [head, *rows]
    widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
    return "\n".join("  ".join(cell.ljust(w) for cell, w in zip(line, widths)).rstrip() for line in lines)


def _next(args: argparse.Namespace) -> str:
    if args.against:
        return f"stepvideo evaluate videos {args.folder} --json"
    return f"stepvideo evaluate videos {args.folder} --against OTHER_DIR"
