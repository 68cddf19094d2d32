"""`stepvideo emulate timeline`: a pipeline schedule as a picture, and what of the step is waiting."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

HELP = "draw a pipeline schedule (1F1B, interleaved) and say how much of the step its stages wait"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--pipeline", type=int, default=4, metavar="P", help="stages (4)")
    parser.add_argument("--virtual", type=int, default=1, metavar="V", help="chunks of layers of a stage (1)")
    parser.add_argument("--micro-batches", type=int, default=8, metavar="M", help="micro-batches of a step (8)")
    text = "seconds of a micro-batch {} through one stage, one number or one a stage"
    parser.add_argument("--forward", type=float, nargs="+", default=[1.0], metavar="S", help=text.format("forward"))
    parser.add_argument("--backward", type=float, nargs="+", default=[2.0], metavar="S", help=text.format("backward"))
    parser.add_argument("--p2p", type=float, default=0.0, metavar="S", help="seconds to hand it to the next stage (0)")
    parser.add_argument("--hidden", type=float, default=0.0, metavar="S", help="the same, beside the computation (0)")
    parser.add_argument("--out", type=Path, metavar="FILE", help="picture: .svg, .html, or .json for chrome://tracing")
    parser.add_argument("--json", action="store_true", help="print JSON")


def call(args: argparse.Namespace) -> int:
    """Prints the times, draws to `--out`.

    Raises:
        ConfigError: a schedule that cannot run, with the reason and what would.
    """
    from stepvideo.emulator import events, timeline
    from stepvideo.emulator.schedule import pipeline_time

    p, v, m = args.pipeline, args.virtual, args.micro_batches
    forward, backward = (t[0] if len(t) == 1 else t for t in (args.forward, args.backward))
    played = events.simulate(forward, backward, p, v, m, args.p2p, args.hidden)
    seconds, passes = events.total(played), 2 * v * m * p
    busy = sum(e.end - e.start for e in played)
    found = {"seconds": seconds, "waiting": 1 - busy / (p * seconds) if seconds else 0.0, "passes": passes}
    if isinstance(forward, float) and isinstance(backward, float) and not args.hidden:
        found["closed_form_seconds"] = float(pipeline_time(forward, backward, p, v, m, args.p2p))
    title = f"{'interleaved ' * (v > 1)}1F1B, {p} stages of {v} chunks, {m} micro-batches: {seconds:.4g} s"
    if args.out:
        timeline.write(played, args.out, title)
    if args.json:
        print(json.dumps(found, indent=1))
        return 0
    closed = f", in closed form {found['closed_form_seconds']:.4g} s" if "closed_form_seconds" in found else ""
    print(f"{title}{closed}; stages wait {found['waiting']:.1%} of it ({passes} passes)")
    print(f"drawn to {args.out}" if args.out else "draw it: --out timeline.html")
    return 0
