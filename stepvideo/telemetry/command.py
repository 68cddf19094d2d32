"""`stepvideo telemetry`: what a training's ranks have recorded, for people and programs. Light until it is called."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stepvideo.errors import ConfigError
from stepvideo.subcommands import Command, add_commands
from stepvideo.telemetry import ship_command as shipping
from stepvideo.telemetry.schema import place_of

if TYPE_CHECKING:
    from stepvideo.telemetry.views import Views

HELP = "where a training's time goes, who is slow, what data it consumed, what is wrong: from the records of all ranks"
RANKS = "tensor ranks, and Ulysses ranks, of the job, if it has not told them itself"


def add_arguments(parser: argparse.ArgumentParser, others: Iterable[Command] = ()) -> None:
    """The sub-commands of this package, and `others` that need what lies above it."""
    add_commands(parser, (*COMMANDS, *others))


def add_run(parser: argparse.ArgumentParser) -> None:
    """Which run."""
    parser.add_argument("folder", metavar="FOLDER", type=Path, help="telemetry folder, or the store that holds one")
    parser.add_argument("--run", default="", metavar="NAME", help="or its beginning, such as a stage (the newest run)")
    parser.add_argument("--stage", default="", metavar="NAME", help="of a run that has several (the last one)")
    parser.add_argument("--tensor", type=int, default=0, metavar="INT", help=RANKS)
    parser.add_argument("--ulysses", type=int, default=0, metavar="INT", help=argparse.SUPPRESS)


def add_expectations(parser: argparse.ArgumentParser) -> None:
    """What a run is held against."""
    text = "seconds of a step, such as `stepvideo emulate step` says; by default what the job itself predicted"
    parser.add_argument("--predicted", type=float, default=0.0, metavar="S", help=text)
    text = "of the samples, by bucket: 1x256x256=0.5,17x192x320=0.5; by default the first half of the run"
    parser.add_argument("--shares", default="", metavar="BUCKET=SHARE,…", help=text)


def _add_json(parser: argparse.ArgumentParser) -> None:
    add_run(parser)
    parser.add_argument("--json", action="store_true", help="print JSON; times in seconds")


def _add_expected(parser: argparse.ArgumentParser) -> None:
    _add_json(parser)
    add_expectations(parser)


def _add_watch(parser: argparse.ArgumentParser) -> None:
    _add_expected(parser)
    parser.add_argument("--watch", action="store_true", help="go on, and print what is new until Ctrl-C")
    parser.add_argument("--every", type=float, default=5.0, metavar="S", help="with --watch, seconds between looks (5)")


def _add_page(parser: argparse.ArgumentParser) -> None:
    add_run(parser)
    add_expectations(parser)
    parser.add_argument("--out", type=Path, default=Path("telemetry.html"), metavar="FILE", help="(telemetry.html)")


def views_of(args: argparse.Namespace) -> Views:
    """The views that the arguments name. Raises StepVideoError."""
    from stepvideo.telemetry.views import open_views

    views = open_views(place_of(args.folder), args.run, args.stage)
    given = {name: getattr(args, name) for name in ("tensor", "ulysses") if getattr(args, name)}
    try:
        views.layout = replace(views.layout, **given) if given else views.layout
    except ValueError as e:
        raise ConfigError(str(e)) from e
    return views


def shares_of(text: str) -> dict[str, float] | None:
    """--shares. Raises ConfigError."""
    if not text:
        return None
    try:
        found = {bucket.strip(): float(share) for bucket, share in (part.split("=") for part in text.split(","))}
        if min(found.values()) < 0 or sum(found.values()) <= 0:
            raise ValueError("shares must not be negative, nor all 0")
    except ValueError as e:
        example = "1x256x256=0.3,17x192x320=0.7"
        raise ConfigError(f"--shares {text!r}: {e}; give BUCKET=SHARE,…, for example {example}") from e
    return found


def _summary(args: argparse.Namespace) -> int:
    from stepvideo.telemetry.throughput import series
    from stepvideo.telemetry.times import breakdown

    with views_of(args) as views:
        found = {"run": views.run, "stage": views.stage, "first": views.steps[0], "last": views.steps[1]}
        found |= {"ranks": len(views.layout.ranks), "nodes": len(views.layout.by_node)}
        found |= {"speed": series(views, args.predicted).summary(), "breakdown": breakdown(views)}
    return _print(args, found, _said_summary)


def _said_summary(found: dict[str, Any]) -> str:
    speed = found["speed"]
    lines = [
        f"{found['run']} {found['stage']}: steps {found['first']} to {found['last']}, {found['ranks']} ranks on "
        f"{found['nodes']} nodes"
    ]
    told = {"step_s": "s a step", "tokens_per_s": "tokens/s", "samples_per_s": "samples/s", "mfu": "MFU",
            "predicted_step_s": "s predicted", "measured_over_predicted": "measured/predicted"}  # fmt: skip
    lines.append(", ".join(f"{speed[k]:.4g} {unit}" for k, unit in told.items() if speed[k] is not None))
    rows = [
        [r["section"], _ms(r["seconds"]), f"{r['share']:.1%}", *(_ms(r.get(p)) for p in ("p50", "p90", "p99")),
         "waits for others" if r["waiting"] else ""]
        for r in found["breakdown"]
    ]  # fmt: skip
    return "\n".join([*lines, "", _table(["section", "ms a step", "share", "median", "90 %", "99 %", ""], rows)])


def _slow(args: argparse.Namespace) -> int:
    from stepvideo.telemetry.times import QUICK, cube, slow_places

    with views_of(args) as views:
        found = [
            {
                "place": str(s.place), "kind": s.place.kind, "ranks": s.place.ranks, "nodes": s.place.nodes,
                "section": s.section, "since_step": s.since, "until_step": s.until, "slower": s.ratio - 1, "z": s.z,
                "lost_s": s.lost,
            }
            for s in slow_places(cube(views, QUICK), views.layout)
        ]  # fmt: skip
    return _print(args, found, _said_slow)


def _said_slow(found: list[dict[str, Any]]) -> str:
    rows = [
        [r["place"], r["section"], f"{r['slower']:.1%}", _ms(r["lost_s"]), f"{r['since_step']} to {r['until_step']}",
         f"{r['z']:.0f}"]
        for r in found
    ]  # fmt: skip
    head = ["who", "section", "slower", "lost ms a step", "steps", "z"]
    return _table(head, rows) if rows else "nobody is slower than the others"


def _data(args: argparse.Namespace) -> int:
    from stepvideo.telemetry.consumption import consumption, duplicates, mix

    with views_of(args) as views:
        found: dict[str, Any] = {by: consumption(views, by) for by in ("source", "kind", "bucket")}
        found |= {"mix": mix(views, shares_of(args.shares)), "duplicates": duplicates(views)}
    return _print(args, found, _said_data)


def _said_data(found: dict[str, Any]) -> str:
    lines = []
    for by in ("source", "kind", "bucket"):
        rows = [
            [
                r[by] or "unknown",
                *map(str, (r["samples"], r["different"])),
                f"{r['share']:.1%}",
                f"{r['token_share']:.1%}",
            ]
            for r in found[by]
        ]
        lines += [_table([by, "samples", "different", "of samples", "of tokens"], rows), ""]
    off = [r for r in found["mix"] if r["expected"] is not None]
    if off:
        rows = [[r["bucket"], f"{r['share']:.1%}", f"{r['expected']:.1%}"] for r in off]
        lines += [_table(["bucket", "share", "configured"], rows), ""]
    again = found["duplicates"]
    lines.append(f"{again['repeated']} of {again['samples']} samples ({again['rate']:.2%}) came again within an epoch")
    lines += [f"  {r['sample_id']} of {r['source'] or 'unknown'}: {r['times']} times" for r in again["worst"][:5]]
    return "\n".join(lines)


def _anomalies(args: argparse.Namespace) -> int:
    """Exit code 0 whatever was found: it is an answer."""
    from stepvideo.telemetry.findings import findings
    from stepvideo.telemetry.page.payload import as_json
    from stepvideo.telemetry.throughput import series

    if args.watch:
        return _follow(args)
    with views_of(args) as views:
        progress = series(views, args.predicted)
        found = findings(views, shares=shares_of(args.shares), progress=progress)
    if args.json:
        return _print(args, [as_json(a) for a in found], str)
    print("\n".join(f"{a.severity:8}{a}" for a in found) or "nothing was found")
    return 0


def _follow(args: argparse.Namespace) -> int:
    from stepvideo.telemetry.live import Follower
    from stepvideo.telemetry.page.payload import as_json, clean

    follower = Follower(place_of(args.folder), args.run, args.stage, shares=shares_of(args.shares))
    while True:
        for a in follower.poll():
            print(json.dumps(clean(as_json(a))) if args.json else f"{a.severity:8}{a}", flush=True)
        time.sleep(args.every)


def _page(args: argparse.Namespace) -> int:
    from stepvideo.telemetry.page.document import write_page
    from stepvideo.telemetry.page.payload import payload

    with views_of(args) as views:
        write_page(args.out, payload(views, shares=shares_of(args.shares), predicted=args.predicted))
    print(args.out)
    return 0


def _grafana(args: argparse.Namespace) -> int:
    print(GRAFANA.read_text(encoding="utf-8"), end="")
    return 0


def _print(args: argparse.Namespace, found: Any, said: Callable[[Any], str]) -> int:
    from stepvideo.telemetry.page.payload import clean

    print(json.dumps(clean(found), indent=1) if args.json else said(found))
    return 0


def _ms(seconds: float | None) -> str:
    return "" if seconds is None else f"{1e3 * seconds:.4g}"


def _table(head: list[str], rows: list[list[str]]) -> str:
    wide = [max(len(r[i]) for r in [head, *rows]) for i in range(len(head))]
    return "\n".join(
        "  ".join(f"{c:<{w}}" if i == 0 else f"{c:>{w}}" for i, (c, w) in enumerate(zip(r, wide))).rstrip()
        for r in [head, *rows]
    )


SUMMARY = "speed beside the prediction, and what an iteration is made of"
SLOW = "ranks, nodes and groups that are slower than the others"
DATA = "samples by source, kind and bucket; duplicates; the mix beside the configured one"
ANOMALIES = "what is wrong, found by itself: of a whole run, or as it happens (--watch)"
PAGE = "one HTML file: ranks over time, what is behind each cell, speed, data, anomalies"
BOARD = "print a Grafana dashboard of the tables in ClickHouse (ship --clickhouse), to import there"
GRAFANA = Path(__file__).with_name("grafana.json")
COMMANDS = (
    Command("ship", shipping.HELP, shipping.add_arguments, shipping.call),
    Command("summary", SUMMARY, _add_expected, _summary),
    Command("slow", SLOW, _add_json, _slow),
    Command("data", DATA, _add_expected, _data),
    Command("anomalies", ANOMALIES, _add_watch, _anomalies),
    Command("page", PAGE, _add_page, _page),
    Command("grafana", BOARD, lambda parser: None, _grafana),
)
