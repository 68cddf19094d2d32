"""`stepvideo emulate step`: seconds of a training step of every stage, and where they go. Torch-free."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from stepvideo.training.fits import Stage
    from stepvideo.training.predict import Prediction

HELP = "seconds of a training step of each stage of a profile, what they go to, MFU and memory (no GPU needed)"
GB = 1e9
BESIDE = ("memory", "launch", "pipeline", "bubble", "optimizer", "straggler")  # shown together as `rest`


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="settings, for example profile=30b")
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--gpu", default="", metavar="NAME", help="of the catalogue, such as H800, by priors")
    where.add_argument("--calibration", default="", metavar="FILE", help="a calibration that `emulate calibrate` wrote")
    parser.add_argument("--html", type=Path, metavar="FILE", help="write a page with bars of time and memory")
    parser.add_argument("--json", action="store_true", help="print JSON, in seconds and bytes")


def call(args: argparse.Namespace, stages: Callable[[list[str]], tuple[Iterable[Stage], str]]) -> int:
    """Prints the table.

    Args:
        stages: composes overrides to the stages of a cascade and the GPU that they name; of the layer above.

    Raises:
        ConfigError: ranks that do not divide as asked, an unknown GPU, a calibration that does not read.
    """
    from stepvideo.emulator.machine import target
    from stepvideo.errors import ConfigError
    from stepvideo.training.predict import predictions

    composed, gpu = stages(args.overrides)
    try:
        found = predictions(composed, target(args.gpu or ("" if args.calibration else gpu), args.calibration))
    except ValueError as e:
        raise ConfigError(str(e)) from e
    if args.html:
        _page(args.html, found)
    print(json.dumps([p.row() for p in found], indent=1) if args.json else table(found))
    return 0


def table(found: list[Prediction]) -> str:
    """For a terminal; shares are of the step."""
    if not found:
        return "no stage trains the DiT by flow matching"
    shown = [p for p in found[0].seconds.parts if p not in BESIDE]
    wide = max(len(p.layout) for p in found)
    lines = [
        f"{'stage':13} {'ranks':>5} {'layout':{wide}} {'step s':>8} {'MFU':>6}"
        + "".join(f" {p[:9]:>9}" for p in [*shown, "rest"])
        + f" {'memory':>9} {'GPU hours':>9}"
    ]
    for p in found:
        parts, total = p.seconds.parts, p.seconds.total
        shares = [parts[name] for name in shown] + [sum(parts[name] for name in BESIDE)]
        cells = "".join(f" {s / total:9.1%}" for s in shares)
        over = "!" if p.memory > p.device else " "
        lines.append(
            f"{p.stage:13} {p.ranks:5} {p.layout:{wide}} {total:8.3g} {p.seconds.mfu:6.1%}{cells} "
            f"{p.memory / GB:6.1f} GB{over}{p.gpu_hours:9.3g}"
        )
    if any(p.memory > p.device for p in found):
        lines.append(f"! more than the {found[0].device / GB:g} GB of a device: see stepvideo emulate fits")
    return "\n".join([*lines, f"constants: {found[0].basis}"])


def _page(path: Path, found: list[Prediction]) -> None:
    from stepvideo.emulator.report import Bars, Table, write

    def bars(title: str, unit: str, scale: float) -> Bars:
        return Bars(title, unit, [(p.stage, {k: scale * v for k, v in p.seconds.parts.items()}) for p in found])

    rows = [
        [p.stage, p.layout, str(p.ranks), f"{p.seconds.total:.3g}", f"{p.seconds.mfu:.1%}", f"{p.memory / GB:.1f}"]
        for p in found
    ]
    parts = [
        Table("Stages", ("stage", "layout", "ranks", "step, s", "MFU", "memory, GB"), rows),
        bars("Seconds of a step", "s", 1.0),
        Bars("Memory", "GB", [(p.stage, {"peak": p.memory / GB}) for p in found], found[0].device / GB),
    ]
    write(path, "What a training step takes", f"Constants: {found[0].basis}.", parts)
