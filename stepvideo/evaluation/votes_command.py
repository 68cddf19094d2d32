"""`stepvideo evaluate votes` and `stepvideo evaluate plan`: results of a study, and its size. Light until called."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from stepvideo.errors import ConfigError

HELP = "results of anyone's table of votes: scores, agreement, ranking and ratings, each with its interval"
PLAN_HELP = "how many prompts a study of wins, ties and losses needs, and what given ones can show"
STUDIES = 4000  # that --check simulates


def add_arguments(parser: argparse.ArgumentParser) -> None:
    text = ".csv, .tsv, .jsonl or .json: of `stepvideo study close`, FastChat, VideoAlign, or any with named columns"
    parser.add_argument("table", type=Path, metavar="FILE", help=text)
    parser.add_argument("--against", metavar="MODEL", help="compare the others with this model (every two)")
    text = "score that verdicts are about: supported where the whole interval is above it (0.5)"
    parser.add_argument("--claim", type=float, default=0.5, metavar="SCORE", help=text)
    text = "which column holds a field: outcome, model_a, model_b, prompt_id, annotator, category, model, …"
    parser.add_argument("--column", action="append", default=[], metavar="FIELD=NAME", help=text)
    text = "what a value of the outcome column means: a, b or tie"
    parser.add_argument("--value", action="append", default=[], metavar="VALUE=SIDE", help=text)
    parser.add_argument("--exclude", action="append", default=[], metavar="ANNOTATOR", help="leave out these votes")
    parser.add_argument("--html", type=Path, metavar="OUT", help="also write one page with plots and tables")
    parser.add_argument("--json", action="store_true", help="print JSON instead of Markdown tables")


def call(args: argparse.Namespace) -> int:
    from stepvideo import storage
    from stepvideo.evaluation.analysis import analyse
    from stepvideo.evaluation.votes_import import read_any
    from stepvideo.evaluation.votes_page import page
    from stepvideo.evaluation.votes_tables import facts, tables

    if not 0 < args.claim < 1:
        raise ConfigError(f"--claim {args.claim}: give a score between 0 and 1, such as 0.5")
    votes = read_any(args.table, _pairs("--column", args.column), _pairs("--value", args.value))
    found = analyse(votes, args.against, args.claim, args.exclude)
    if args.html:
        storage.write_atomic(args.html, page(found, f"Votes of {args.table.name}"))
    if args.json:
        print(json.dumps(found.as_dict(), ensure_ascii=False, indent=1, sort_keys=True))
    else:
        print(*facts(found), "", *(t.markdown() for t in tables(found)), sep="\n")
        print(f"page: {args.html}" if args.html else f"plots: stepvideo evaluate votes {args.table} --html votes.html")
    return 0


def add_plan_arguments(parser: argparse.ArgumentParser) -> None:
    text = "(wins + ties / 2) / votes that shall be told from 0.5 (0.55)"
    parser.add_argument("--score", type=float, default=0.55, metavar="S", help=text)
    parser.add_argument("--ties", type=float, default=0.3, metavar="SHARE", help="of all votes (0.3)")
    parser.add_argument("--raters", type=int, default=3, metavar="N", help="annotators a prompt (3)")
    text = "of two annotators' votes on one prompt, about Krippendorff's alpha (0.4)"
    parser.add_argument("--correlation", type=float, default=0.4, metavar="R", help=text)
    parser.add_argument("--power", type=float, default=0.8, metavar="P", help="chance to find it (0.8)")
    parser.add_argument("--prompts", type=int, metavar="N", help="what this many prompts can show, besides")
    parser.add_argument("--check", action="store_true", help="simulate studies of that size; exit 1 if power is missed")
    parser.add_argument("--json", action="store_true", help="print JSON")


def plan(args: argparse.Namespace) -> int:
    from stepvideo.evaluation.planner import Design, detectable, power_of, prompts_needed, simulate
    from stepvideo.evaluation.stats import wilson

    fields = {name: getattr(args, name) for name in ("score", "ties", "raters", "correlation", "power")}
    try:
        design = Design(**fields)
    except ValueError as e:
        raise ConfigError(f"--{e}") from None
    need = prompts_needed(design)
    found: dict[str, Any] = {"design": fields, "prompts": need, "votes": need * design.raters}
    others = sorted({1, 2, 3, 5, design.raters})
    found["by_raters"] = {k: prompts_needed(Design(**{**fields, "raters": k})) for k in others}
    if args.prompts:
        found["given"] = {
            "prompts": args.prompts,
            "power": power_of(design, args.prompts),
            "smallest_score": detectable(design, args.prompts),
        }
    missed = False
    if args.check:
        power = simulate(design, need, STUDIES)
        found |= wilson(round(power * STUDIES), STUDIES).named("simulated_power")
        missed = abs(found["simulated_power"] - design.power) > 0.03
    print(json.dumps(found, indent=1, sort_keys=True) if args.json else _plan_text(found))
    return int(missed)


def _plan_text(found: dict[str, Any]) -> str:
    d = found["design"]
    lines = [
        f"{found['prompts']} prompts with {d['raters']} annotators each, {found['votes']} votes: then a true score of "
        f"{d['score']:g} with {100 * d['ties']:g} % ties is found (p < 0.05) with probability {d['power']:g},",
        f"where two annotators of a prompt correlate by {d['correlation']:g}.",
        "prompts by annotators a prompt: " + ", ".join(f"{k}: {n}" for k, n in found["by_raters"].items()),
    ]
    if given := found.get("given"):
        least = given["smallest_score"]
        shown = f"the smallest score found with probability {d['power']:g} is {least:.3f}" if least else "too few"
        lines.append(f"{given['prompts']} prompts: found with probability {given['power']:.2f}; {shown}")
    if "simulated_power" in found:
        value, low, high = (100 * found[f"simulated_power{end}"] for end in ("", "_low", "_high"))
        lines.append(f"{STUDIES:,} simulated studies of that size find it in {value:.1f} % ({low:.1f} to {high:.1f} %)")
    return "\n".join([*lines, "next: stepvideo study create --help"])


def _pairs(option: str, given: list[str]) -> dict[str, str]:
    out = {}
    for text in given:
        name, found, value = text.rpartition("=")
        if not (found and name and value):
            raise ConfigError(f"{option} {text}: give two names with = between them")
        out[name] = value
    return out
