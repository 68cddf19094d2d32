"""`stepvideo study export | import`: a study's items to another annotation tool, blind, and its answers back."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from stepvideo.errors import StepVideoError
from stepvideo.preference.arguments import add_study, open_session
from stepvideo.subcommands import Command

if TYPE_CHECKING:
    from sqlalchemy import Connection

FORMATS = ("labelstudio", "csv")


def _export_arguments(parser: argparse.ArgumentParser) -> None:
    add_study(parser)
    parser.add_argument(
        "--out", type=Path, required=True, metavar="FOLDER", help="tasks and media; a file for videoalign"
    )
    parser.add_argument(
        "--to", choices=(*FORMATS, "videoalign"), default="labelstudio",
        help="labelstudio: tasks.json, label_config.xml, media; csv: tasks.csv, media, for Argilla, Toloka or a "
        "spreadsheet; videoalign: the votes of a closed study (labelstudio)",
    )  # fmt: skip
    parser.add_argument(
        "--name", default="export", metavar="NAME", help="of this export; others get other sides (export)"
    )
    parser.add_argument("--media-url", default="media/", metavar="PREFIX", help="before a media file's name in tasks")
    parser.add_argument("--pairwise", action="store_true", help="Label Studio's tag Pairwise, which has no tie")
    parser.add_argument("--queue", action="store_true", help="only pairs that an adjudicator has to look at")


def _export(args: argparse.Namespace) -> int:
    from stepvideo import storage
    from stepvideo.evaluation.votes import SCALES
    from stepvideo.preference.exchange import key, labelstudio, plain
    from stepvideo.preference.study import EXPORTS

    session = open_session(args)
    study = session.study
    if args.to == "videoalign":
        return _videoalign(args)
    if study.kind == "label":
        raise StepVideoError("clips for labels go to other tools by `stepvideo label export`")
    if (args.study / EXPORTS / f"{args.name}.key.json").exists():
        raise StepVideoError(f"{args.study} has an export {args.name} already; give another --name")
    rows = key.entries(study, _queued(args) if args.queue else None, args.name)
    if not rows:
        raise StepVideoError("there is nothing to export")
    given = key.tasks(study, rows)
    key.place_media(study, args.study, rows, args.out / "media")
    if args.to == "labelstudio":
        storage.write_atomic(args.out / "tasks.json", labelstudio.tasks(given, args.media_url))
        interface = labelstudio.interface(study.kind, SCALES, args.pairwise)
        storage.write_atomic(args.out / "label_config.xml", interface)
    else:
        storage.write_atomic(args.out / "tasks.csv", plain.tasks(given, args.media_url))
    key.save_key(args.study, args.name, rows)
    unheld = labelstudio.UNHELD_PAIRWISE if args.pairwise else labelstudio.UNHELD
    unheld = unheld if args.to == "labelstudio" else plain.UNHELD
    print(f"{len(rows)} tasks in {args.out}, which name no model")
    if unheld:
        print(f"the answers cannot hold {', '.join(unheld.values())}")
    print(f"next: stepvideo study import {args.study} ANSWERS --from {args.to} --name {args.name}")
    return 0


def _import_arguments(parser: argparse.ArgumentParser) -> None:
    add_study(parser)
    parser.add_argument("answers", type=Path, metavar="FILE", help="Label Studio's export in its format JSON, or a CSV")
    parser.add_argument("--from", dest="source", choices=FORMATS, default="labelstudio", help="(labelstudio)")
    parser.add_argument("--name", default="export", metavar="NAME", help="of the export that was answered (export)")
    parser.add_argument("--simulated", action="store_true", help="the answers are of simulated annotators")


def _import(args: argparse.Namespace) -> int:
    from stepvideo.evaluation.votes import write_votes
    from stepvideo.preference.exchange import key, labelstudio, plain
    from stepvideo.preference.session import closed
    from stepvideo.preference.table import IMPORTED, is_closed, vote_rows

    session = open_session(args)
    if is_closed(session):
        raise StepVideoError(f"{args.study} is closed and takes no more votes")
    answers = (labelstudio if args.source == "labelstudio" else plain).read(args.answers)
    entries = key.load_key(args.study, args.name)
    rows = key.votes(session.study, entries, answers, str(args.answers), args.simulated)
    path = args.study / IMPORTED / f"{args.name}.jsonl"
    known = {(v.item, v.annotator) for v in vote_rows(session, args.study, without=path.name)}
    if twice := [v for v in rows if (v.item, v.annotator) in known]:
        raise StepVideoError(
            f"{args.answers}: {len(twice)} answers are of annotators who answered the same item in this study already, "
            f"such as {twice[0].annotator!r} item {twice[0].item}; leave them out, or give another person's name"
        )

    def keep(connection: Connection) -> None:
        if closed(connection):  # meanwhile; who closes waits for this transaction
            raise StepVideoError(f"{args.study} is closed and takes no more votes")
        write_votes(path, rows)

    session.store.write(keep)
    people = len({v.annotator for v in rows})
    print(f"{len(rows)} answers of {people} annotators in {path}, {sum(bool(v.skipped) for v in rows)} of them skipped")
    print(f"next: stepvideo study report {args.study} --blind")
    return 0


def _queued(args: argparse.Namespace) -> list[str]:
    from stepvideo.preference.adjudicate import adjudicate, queue
    from stepvideo.preference.quality import screen
    from stepvideo.preference.table import vote_rows

    session = open_session(args)
    found = screen(vote_rows(session, args.study), session.study.config.rules)
    return [d.item for d in queue(adjudicate(found))]


def _videoalign(args: argparse.Namespace) -> int:
    from stepvideo import storage
    from stepvideo.preference.exchange import videoalign
    from stepvideo.preference.quality import screen
    from stepvideo.preference.study import MEDIA
    from stepvideo.preference.table import vote_rows

    session = open_session(args)
    study = session.study
    if not study.config.paired:
        raise StepVideoError(f"VideoAlign's table has pairs; {args.study} is of kind {study.kind}")
    rows = screen(vote_rows(session, args.study, blind=False), study.config.rules).included
    files = {i.item: (f"{MEDIA}/{i.a.media}", f"{MEDIA}/{i.b.media}") for i in study.items if i.b}
    media = study.config.media
    storage.write_atomic(args.out, videoalign.write(rows, lambda v: files[v.item], media.fps, media.frames))
    lost = ", ".join(f"{what} ({n})" for what, n in videoalign.lost(rows).items())
    print(f"{len(rows)} votes in {args.out}; the table cannot hold {lost or 'nothing else'}")
    return 0


COMMANDS = (
    Command("export", "items for Label Studio, Argilla, Toloka or a spreadsheet, blind; votes for VideoAlign",
            _export_arguments, _export),
    Command("import", "answers of another tool to an open study", _import_arguments, _import),
)  # fmt: skip
