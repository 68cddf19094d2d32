"""`stepvideo label`: clips out to people who judge them, their answers back; and the camera-motion set."""

from __future__ import annotations

import argparse
from pathlib import Path

from stepvideo.curation import places
from stepvideo.errors import ConfigError

HELP = "people's labels for SFT sets: clips out, answers back (report, 7.2); and a camera-motion set for the captioner"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(required=True, metavar="ACTION")

    sub = actions.add_parser("export", help="write clips and tasks for Label Studio or a spreadsheet")
    places.add_arguments(sub)
    sub.add_argument("--subset", default="sft_1", metavar="NAME", help="whose clips (sft_1)")
    sub.add_argument("--out", type=Path, required=True, metavar="FOLDER")
    sub.add_argument("--open", type=Path, metavar="LABELS", help="only clips that are open in this labels.parquet")
    sub.add_argument("--side", type=int, default=720, metavar="INT", help="pixels of the shorter side at most (720)")
    sub.add_argument(
        "--media-url",
        default="media/",
        metavar="PREFIX",
        help="before ID.mp4 in tasks.json, for Label Studio",
    )
    sub.set_defaults(action=_export)

    sub = actions.add_parser("import", help="check answers, decide, and write one side table")
    sub.add_argument(
        "answers", type=Path, nargs="+", metavar="FILE", help="filled-in tasks.csv, or Label Studio's JSON"
    )
    sub.add_argument("--tasks", type=Path, required=True, metavar="FOLDER", help="what label export wrote")
    sub.add_argument("--out", type=Path, required=True, metavar="FILE", help="labels.parquet")
    sub.add_argument(
        "--adjudicator", action="append", default=[], metavar="NAME", help="an annotator whose word decides"
    )
    text = "an artifact store whose retraining is to know of them (runs/store, if it is there)"
    sub.add_argument("--store", metavar="DIR", help=text)
    sub.add_argument("--least", type=int, default=1, metavar="INT", help="annotators that a clip needs (1)")
    sub.set_defaults(action=_import)

    sub = actions.add_parser("camera-set", help="clips with their camera motion, to teach a captioner (report, 7.1)")
    places.add_arguments(sub)
    sub.add_argument("--out", type=Path, required=True, metavar="FOLDER")
    sub.add_argument("--labels", type=Path, metavar="JSONL", help='people\'s, {"clip_id": …, "label": …} a line')
    sub.add_argument("--per-label", type=int, default=0, metavar="INT", help="the most clips of one label (all)")
    sub.add_argument("--frames", type=int, default=8, metavar="INT", help="pictures of a clip (8)")
    sub.add_argument("--side", type=int, default=512, metavar="INT", help="pixels of their longer side at most (512)")
    sub.set_defaults(action=_camera_set)


def call(args: argparse.Namespace) -> int:
    """Raises StepVideoError; every message names the file, row or clip."""
    return args.action(args)


def _export(args: argparse.Namespace) -> int:
    from stepvideo.curation.labelling.table import read_labels
    from stepvideo.curation.labelling.tasks import export

    found = places.locate(args)
    only = {r["clip_id"] for r in read_labels(args.open) if r["approved"] is None} if args.open else None
    count = export(args.out, found, args.subset, args.side, args.media_url, only)
    print(f"{count} clips of {args.subset} in {args.out}: tasks.csv, or tasks.json with label_config.xml")
    print(f"next: stepvideo label import ANSWERS --tasks {args.out} --out labels.parquet")
    return 0


def _import(args: argparse.Namespace) -> int:
    from stepvideo.curation.labelling.adjudicate import adjudicate, agreement
    from stepvideo.curation.labelling.answers import read_answers
    from stepvideo.curation.labelling.questions import pseudonym
    from stepvideo.curation.labelling.table import write_labels
    from stepvideo.curation.labelling.tasks import current_captions

    if args.least < 1:
        raise ConfigError(f"--least {args.least}: give 1 or more")
    current = current_captions(args.tasks)
    found = read_answers(args.answers, current)
    adjudicators = {pseudonym(name) for name in args.adjudicator}
    if strangers := [n for n in args.adjudicator if pseudonym(n) not in {v.annotator for v in found.votes}]:
        raise ConfigError(f"--adjudicator {strangers[0]}: there is no answer by that name")
    labels = adjudicate(found.votes, adjudicators, args.least)
    write_labels(labels, args.out)
    decided = [label.approved for label in labels]
    people = len({v.annotator for v in found.votes})
    print(f"{len(labels)} of {len(current)} clips labelled by {people} people, {found.empty} rows without an answer")
    print(f"{decided.count(True)} approved, {decided.count(False)} rejected, {decided.count(None)} open")
    said = [f"{q} {share:.2f}" for q, share in agreement(found.votes).items() if share is not None]
    print(f"agreement of pairs: {', '.join(said)}" if said else "no clip was judged by two people")
    for label in labels:
        if label.why:
            print(f"open: {label.clip_id}: {label.why}")
    print(f"next: stepvideo curate DIR labels={args.out}")
    return 0


def _camera_set(args: argparse.Namespace) -> int:
    from stepvideo.curation.captioning.camera_set import SET, camera_motion_set

    found = places.locate(args)
    options = {"per_label": args.per_label, "frames": args.frames, "side": args.side}
    counts = camera_motion_set(found["curate"], args.out, found.get("tables", ()), args.labels, **options)
    print(f"{args.out / SET}: {', '.join(f'{n} {name}' for name, n in counts.items())}")
    return 0
