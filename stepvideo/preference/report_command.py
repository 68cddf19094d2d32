"""`stepvideo study report | queue | pairs | labels`: what a study says, and what is made of it. Light until called."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from stepvideo.errors import StepVideoError
from stepvideo.preference.arguments import add_study, open_session
from stepvideo.subcommands import Command

if TYPE_CHECKING:
    from stepvideo.preference.adjudicate import Decision
    from stepvideo.preference.rules import Rules
    from stepvideo.preference.session import Session


def _report_arguments(parser: argparse.ArgumentParser) -> None:
    add_study(parser)
    _add_adjudicators(parser)
    parser.add_argument("--blind", action="store_true", help="quality alone, which an open study shows, too")
    parser.add_argument(
        "--rules", dest="other_rules", type=Path, metavar="JSON", help="other exclusion rules; the report says so"
    )
    parser.add_argument("--html", type=Path, metavar="OUT", help="write the page")
    parser.add_argument("--json", action="store_true", help="print JSON")


def _report(args: argparse.Namespace) -> int:
    from stepvideo import storage
    from stepvideo.preference.report import report
    from stepvideo.preference.report_page import html, text

    rules = _rules(args.other_rules) if args.other_rules else None
    said = report(open_session(args), args.study, args.blind, args.adjudicators, rules)
    if args.html:
        storage.write_atomic(args.html, html(said))
    print(json.dumps(said.as_dict(), ensure_ascii=False, indent=1) if args.json else text(said))
    if not args.json:
        print(f"next: open {args.html}" if args.html else f"next: stepvideo study report {args.study} --html OUT.html")
    return 0


def _rules(path: Path) -> Rules:
    from stepvideo import config, storage
    from stepvideo.preference.rules import Rules

    return config.load(Rules, storage.read_json(path), "rules")


def _queue_arguments(parser: argparse.ArgumentParser) -> None:
    add_study(parser)
    _add_adjudicators(parser)
    _add_least(parser)
    parser.add_argument("--json", action="store_true", help="print JSON")


def _queue(args: argparse.Namespace) -> int:
    from stepvideo.preference.adjudicate import counts, queue

    _, decisions = _decisions(args)
    waiting = queue(decisions)
    if args.json:
        print(json.dumps([{"item": d.item, "decided": d.outcome is not None, "why": d.why} for d in waiting]))
        return 0
    print(", ".join(f"{n} {k}" for k, n in counts(decisions).items()))
    for d in waiting:
        print(f"  {d.item}: {d.why}")
    if waiting:
        print(f"next: stepvideo study export {args.study} --queue --out FOLDER, for an adjudicator")
    return 0


def _pairs_arguments(parser: argparse.ArgumentParser) -> None:
    add_study(parser)
    _add_adjudicators(parser)
    _add_least(parser)
    parser.add_argument("--out", type=Path, required=True, metavar="JSONL")


def _pairs(args: argparse.Namespace) -> int:
    from stepvideo.preference.pairs_table import pairs, write_pairs
    from stepvideo.preference.table import is_closed

    session, decisions = _decisions(args)
    if not is_closed(session):
        raise StepVideoError(f"{args.study} is open: close it first, stepvideo study close {args.study}")
    rows, left_out = pairs(session.study, decisions)
    write_pairs(args.out, rows)
    said = "simulated " if any(r["simulated"] for r in rows) else ""
    preferences = len(rows) - left_out["ties"]
    print(f"{preferences} {said}preferences in {args.out}; no preference: {json.dumps(left_out)}")
    if left_out["ties"]:
        print(f"its {left_out['ties']} ties are rows of the table, too; Video-DPO passes over them")
    return 0


def _labels_arguments(parser: argparse.ArgumentParser) -> None:
    add_study(parser)
    parser.add_argument(
        "--tasks", type=Path, required=True, metavar="FOLDER", help="what `stepvideo label export` wrote"
    )
    parser.add_argument("--prompts", action="store_true", help="write FOLDER/prompts.jsonl, of which to make a study")


def _labels(args: argparse.Namespace) -> int:
    from stepvideo import storage
    from stepvideo.curation.labelling.tasks import current_captions
    from stepvideo.preference import labelling
    from stepvideo.preference.table import is_closed, label_rows

    if args.prompts:
        path = args.tasks / "prompts.jsonl"
        storage.write_atomic(path, labelling.prompts(args.tasks))
        made = f"stepvideo study create {args.study} --kind label --videos clips={args.tasks}/media --prompts {path}"
        print(f"{path}\nnext: {made}")
        return 0
    session = open_session(args)
    if session.study.kind != "label" or not is_closed(session):
        raise StepVideoError(f"{args.study} is open, or asks for no labels: labels come from a closed study of clips")
    rows, path = label_rows(session), args.tasks / "answers.csv"
    n = labelling.write(path, rows, current_captions(args.tasks))
    said = "simulated " if session.study.config.simulated else ""
    print(f"{n} {said}answers in {path}; {len(rows) - n} were skipped")
    print(f"next: stepvideo label import {path} --tasks {args.tasks} --out labels.parquet")
    return 0


def _decisions(args: argparse.Namespace) -> tuple[Session, Sequence[Decision]]:
    from stepvideo.preference.adjudicate import adjudicate
    from stepvideo.preference.quality import screen
    from stepvideo.preference.table import vote_rows

    session = open_session(args)
    if not session.study.config.paired:
        raise StepVideoError(f"{args.study} is of kind {session.study.kind}, which asks for no choice between two")
    found = screen(vote_rows(session, args.study), session.study.config.rules)
    return session, adjudicate(found, args.adjudicators, args.least)


def _add_adjudicators(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--adjudicator", dest="adjudicators", action="append", default=[], metavar="NAME",
        help="an annotator whose word decides, and counts in no score; again for others",
    )  # fmt: skip


def _add_least(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--least", type=int, default=1, metavar="INT", help="votes that a majority needs (1)")


COMMANDS = (
    Command("report", "scores with intervals, agreement, who was excluded and what that changes", _report_arguments,
            _report),
    Command("queue", "pairs that an adjudicator has to look at", _queue_arguments, _queue),
    Command("pairs", "preference pairs for Video-DPO, of a closed study of kind prefer", _pairs_arguments, _pairs),
    Command("labels", "answers of a study of kind label, for stepvideo label import", _labels_arguments, _labels),
)  # fmt: skip
