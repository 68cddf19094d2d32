"""`stepvideo fits`: memory of every training stage of the DiT on a device, before anything runs. Torch-free."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from stepvideo.training.fits import Fit, Stage

HELP = "whether the training stages of a profile fit on their devices, and what takes the memory (no GPU needed)"
GB = 1e9
PARTS = ("master", "optimizer", "ema", "weights", "gradients", "exchange", "activations", "backward", "reserve")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="settings, for example profile=30b")
    parser.add_argument("--device-gb", type=float, default=80.0, metavar="GB", help="memory of a device, in 1e9 bytes")
    parser.add_argument("--all", action="store_true", help="every bucket, not only the one that needs most")
    parser.add_argument("--check", action="store_true", help="exit 1 if a stage does not fit")
    parser.add_argument("--json", action="store_true", help="print JSON, in bytes")


def call(args: argparse.Namespace, stages: Callable[[list[str]], Iterable[Stage]]) -> int:
    """Prints the table; 1: `--check` and a stage does not fit.

    Args:
        stages: composes overrides to the stages of a cascade; it belongs to the layer above.

    Raises:
        ConfigError: ranks that do not divide as asked.
    """
    from stepvideo.errors import ConfigError
    from stepvideo.training.fits import fits, worst

    try:
        found = fits(stages(args.overrides))
    except ValueError as e:
        raise ConfigError(str(e)) from e
    if not args.device_gb > 0:
        raise ConfigError(f"--device-gb {args.device_gb:g}: give more than 0")
    device = args.device_gb * GB
    over = [f for f in found if f.memory.total > device]
    shown = found if args.all else worst(found)
    if args.json:
        rows = [f.row(device) for f in shown]
        print(json.dumps({"ok": not over, "device_bytes": device, "rows": rows}, indent=1))
    else:
        print(_table(shown, device))
    return int(args.check and bool(over))


def _table(shown: list[Fit], device: float) -> str:
    wide = max((len(f.layout) for f in shown), default=6)
    parts = "".join(f" {p[:9]:>9}" for p in PARTS)
    lines = [
        f"{'stage':13} {'bucket':12} {'batch':>5} {'layout':{wide}}{parts} {'peak':>6}  GB a rank, of {device / GB:g}"
    ]
    for f in shown:
        cells = "".join(f" {getattr(f.memory, p) / GB:9.1f}" for p in PARTS)
        verdict = "fits" if f.memory.total <= device else "TOO MUCH"
        lines.append(
            f"{f.stage:13} {f.bucket:12} {f.samples:5} {f.layout:{wide}}{cells} {f.memory.total / GB:6.1f}  {verdict}"
        )
    return "\n".join(lines)
