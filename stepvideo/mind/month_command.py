"""`stepvideo mind month`: policies through simulated months."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from typing import Any

from stepvideo.errors import ConfigError
from stepvideo.mind import screen
from stepvideo.mind.simulate.assumptions import Month
from stepvideo.mind.simulate.compare import NAIVE, Compared, compare


def month(args: argparse.Namespace) -> int:
    from rich.console import Console
    from rich.progress import Progress

    if args.months < 2:
        raise ConfigError(f"--months is {args.months}; give 2 or more, for an interval")
    try:
        months = [
            Month(gpus=args.gpus, days=args.days, spares=args.spares, times=times, noise=args.noise)
            for times in args.times
        ]
    except ValueError as e:
        raise ConfigError(str(e)) from e
    found = []
    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("months", total=len(months) * args.months * 3)
        for each in months:
            found.append(compare(each, args.months, lambda: progress.advance(task)))
    missed = [line for each in found for line in each.missed()]
    if args.json:
        print(json.dumps({"rates": [_json(c) for c in found], "missed": missed}, indent=1))
    else:
        for each in found:
            _show(each, args.months)
    print(*(f"missed: {line}" for line in missed), sep="\n", end="\n" if missed else "", file=sys.stderr)
    return int(args.check and bool(missed))


def _json(c: Compared) -> dict[str, Any]:
    return {"month": asdict(c.month), "gain": vars(c.gain()), "policies": c.rows()}


def _show(c: Compared, months: int) -> None:
    m = c.month
    title = f"{m.gpus} GPUs, {m.days:g} days, {m.times:g} × the report's rates, {m.noise:g} misleading events a day"
    hours = ("lost", "detecting", "down", "holding", "slowed")
    columns = ("policy", "effective %", "less slow nodes %", "restarts", "false", *(f"{h} h" for h in hours))
    made = screen.table(f"{title}; {months} months, 95 % intervals", columns)
    for row in c.rows():
        shares = (f"{_points(row['effective'])}", f"{_points(row['productive'])}")
        counts = (f"{row['restarts']:.1f}", f"{row['false']:.1f}")
        made.add_row(row["policy"], *shares, *counts, *(f"{row['hours'][h]:.2f}" for h in hours))
    screen.show(made)
    print(f"gain over {NAIVE!r}: {c.gain()} points; a checkpoint every {m.checkpoint_s / 60:.1f} min")


def _points(mean: dict[str, float]) -> str:
    return f"{100 * mean['value']:.2f} ({100 * mean['low']:.2f} to {100 * mean['high']:.2f})"
