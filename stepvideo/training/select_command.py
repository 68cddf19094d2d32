"""`stepvideo select RUN_DIR`: which snapshot of a run to take, and why."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stepvideo.subcommands import needs

if TYPE_CHECKING:
    from stepvideo.training.select import Judged, Row, Selection

HELP = "which snapshots of a run lie after the gradient norm's peak with norm and loss down, best first"


def add_rule(parser: argparse.ArgumentParser) -> None:
    """The rule's own settings, for every command that selects."""
    parser.add_argument("--smooth", type=int, default=10, metavar="N", help="steps that curves are averaged over")
    parser.add_argument("--warmup", type=int, default=0, metavar="N", help="first steps in which no peak is looked for")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", type=Path, metavar="RUN_DIR", help="artifact of a training stage")
    add_rule(parser)
    parser.add_argument(
        "--plot", type=Path, metavar="FILE.svg", help="draw norm and loss with the peak and the snapshots"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")


def call(args: argparse.Namespace) -> int:
    """Prints the verdict on every snapshot; 1 if none qualifies."""
    from stepvideo import storage
    from stepvideo.errors import ConfigError
    from stepvideo.training.select import judge, read_rows, snapshots

    if args.smooth < 1 or args.warmup < 0:
        raise ConfigError(f"--smooth {args.smooth} --warmup {args.warmup}: give 1 or more, and 0 or more")
    needs(args.run, "loss_curve.json", "what a training stage left, STORE/STAGE/KEY/out")
    rows = read_rows(args.run)
    folders = snapshots(args.run, rows)
    try:
        chosen = judge(rows, folders, args.smooth, args.warmup)
    except ValueError as e:
        raise ConfigError(f"{args.run}: {e}") from e
    if args.plot:
        storage.write_atomic(args.plot, draw(rows, chosen, args.smooth))
    if args.json:
        found = [_plain(s) | {"folder": str(folders[s.step])} for s in chosen.snapshots]
        ranked = [s.step for s in chosen.ranked]
        print(
            json.dumps({"peak": chosen.peak, "ranked": ranked, "reason": chosen.reason, "snapshots": found}, indent=1)
        )
    else:
        print(table(chosen))
    return 0 if chosen.ranked else 1


def _plain(snapshot: Judged) -> dict[str, Any]:
    """For JSON, which knows no NaN."""
    return {k: None if v != v else v for k, v in asdict(snapshot).items()}


def table(chosen: Selection) -> str:
    """The verdicts, one a line."""
    rank = {s.step: str(i) for i, s in enumerate(chosen.ranked, 1)}
    lines = [f"{'step':>9}  {'norm':>9}  {'loss':>9}  rank"]
    lines.append(
        f"{chosen.peak:>9}  {chosen.peak_norm:>9.4g}  {chosen.peak_loss:>9.4g}        peak of the gradient norm"
    )
    lines += [
        f"{s.step:>9}  {s.norm:>9.4g}  {s.loss:>9.4g}  {rank.get(s.step, '-'):>4}  {s.reason}" for s in chosen.snapshots
    ]
    if chosen.reason:
        lines.append(f"none qualifies: {chosen.reason}")
    return "\n".join(lines)


def draw(rows: list[Row], chosen: Selection, smooth: int) -> str:
    """Norm and loss over the steps as an SVG file: as they were, smoothed, the peak and the snapshots that qualify."""
    from stepvideo import svg
    from stepvideo.training.select import smoothed

    marks = [svg.Mark(chosen.peak, "peak"), *(svg.Mark(s.step - 1, f"#{i}") for i, s in enumerate(chosen.ranked, 1))]
    curves = smoothed(rows, smooth)
    charts = []
    for name, at in (("gradient norm", 2), ("loss", 1)):
        raw = svg.Series(name, [(r[0], r[at]) for r in rows], faint=True)
        even = svg.Series(name, [(r[0], r[at]) for r in curves])
        charts.append(svg.line_chart(name, [raw, even], marks=marks))
    return svg.document(charts)
