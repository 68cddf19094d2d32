"""`stepvideo fits`, also `emulate fits`: memory of every training stage of the DiT, before anything runs. Torch-free,
but for `--verify`.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from stepvideo.training.fits import Fit, Stage

HELP = "whether the training stages of a profile fit on their devices, and what takes the memory (no GPU needed)"
GB = 1e9
PARTS = (
    "master",
    "optimizer",
    "ema",
    "beside",
    "weights",
    "gradients",
    "exchange",
    "activations",
    "backward",
    "reserve",
)
PARTS_HELP = "beside: a VAE that encodes clips as they come, DPO's reference"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="settings, for example profile=30b")
    size = parser.add_mutually_exclusive_group()
    size.add_argument(
        "--device-gb", type=float, default=80.0, metavar="GB", help="memory of a device, in 1e9 bytes (80)"
    )
    size.add_argument("--gpu", default="", metavar="NAME", help="of the catalogue, such as H200, in place of its size")
    parser.add_argument("--all", action="store_true", help="every bucket, not only the one that needs most")
    parser.add_argument("--check", action="store_true", help="exit 1 if a stage does not fit, or --verify misses a bar")
    parser.add_argument(
        "--verify",
        action="store_true",
        help="instead, the formulas against our DiT on a pretended device (needs torch)",
    )
    parser.add_argument("--html", type=Path, metavar="FILE", help="write a page with bars of what takes the memory")
    parser.add_argument("--json", action="store_true", help="print JSON, in bytes")


def call(args: argparse.Namespace, stages: Callable[[list[str]], Iterable[Stage]]) -> int:
    """Prints the table; 1: `--check` and a stage does not fit.

    Args:
        stages: composes overrides to the stages of a cascade; it belongs to the layer above.

    Raises:
        ConfigError: ranks that do not divide as asked, a device without memory or of no known name.
    """
    from stepvideo.errors import ConfigError
    from stepvideo.training.fits import fits, worst

    if args.verify:
        return _verify(args)
    device = _device(args)
    try:
        found = fits(stages(args.overrides))
    except ValueError as e:
        raise ConfigError(str(e)) from e
    over = [f for f in found if f.memory.total > device]
    shown = found if args.all else worst(found)
    if args.html:
        _page(args.html, shown, device)
    if args.json:
        rows = [f.row(device) for f in shown]
        print(json.dumps({"ok": not over, "device_bytes": device, "rows": rows}, indent=1))
    else:
        print(_table(shown, device))
    return int(args.check and bool(over))


def _device(args: argparse.Namespace) -> float:
    from stepvideo.emulator.hardware import find
    from stepvideo.errors import ConfigError

    if args.gpu:
        return find(args.gpu).memory
    if not args.device_gb > 0:
        raise ConfigError(f"--device-gb {args.device_gb:g}: give more than 0")
    return args.device_gb * GB


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
    return "\n".join([*lines, *(_advice(f, device) for f in shown if f.memory.total > device)])


def _advice(f: Fit, device: float) -> str:
    from stepvideo.training.fits import remedies

    helping, missing = remedies(f, device)
    over = f"{f.stage} needs {(f.memory.total - device) / GB:.1f} GB more than a device has: "
    if helping:
        return over + "set runtime " + ", or ".join(helping[:3])
    return over + f"no single change of batch, recomputation or ranks is enough, {missing / GB:.1f} GB stay missing"


def _page(path: Path, shown: list[Fit], device: float) -> None:
    from stepvideo.emulator.report import Bars, write

    rows = [(f"{f.stage} {f.bucket} x{f.samples}", {p: getattr(f.memory, p) / GB for p in PARTS}) for f in shown]
    lead = f"GB of the rank that needs most, against {device / GB:g} GB of a device (line). {PARTS_HELP}."
    write(path, "What training needs", lead, [Bars("Memory by part", "GB", rows, device / GB)])


def _verify(args: argparse.Namespace) -> int:
    from stepvideo.emulator import memory_check, step_check

    def say(*words: object) -> None:
        if not args.json:
            print(*words, flush=True)

    say(f"{'width, samples x latent, layout':52} {'kept GB':>9} {'error':>9} {'peak GB':>9} {'error':>9}")
    rows, steps = [], []
    for found in memory_check.check():
        row = found.row()
        rows.append(row)
        kept, peak = (f"{row[f'{x}_bytes'] / GB:9.3f} {row[f'{x}_error']:+9.4%}" for x in ("kept", "peak"))
        say(f"{found.case!s:52} {kept} {peak}{'' if found.ok else '  MISSED'}")
    say("whole steps with FSDP2 and AdamW on two data ranks, by torch's MemTracker")
    for case in step_check.CASES:
        tracked, predicted = step_check.tracked(case)
        error = predicted / tracked - 1
        name = f"{case} ZeRO-{case.parallel.zero}"
        steps.append({"case": " ".join(name.split()), "peak_bytes": tracked, "peak_error": error})
        say(f"{name:72} {tracked / GB:9.3f} {error:+9.4%}{'' if abs(error) <= step_check.BAR else '  MISSED'}")
    most = {x: max(abs(r[f"{x}_error"]) for r in rows) for x in ("kept", "peak")}
    most["step"] = max(abs(r["peak_error"]) for r in steps)
    ok = all(r["ok"] for r in rows) and most["step"] <= step_check.BAR
    if args.json:
        worst = {f"max_{name}_error": value for name, value in most.items()}
        print(json.dumps({"ok": ok, **worst, "rows": rows, "steps": steps}, indent=1))
    say(
        f"{len(rows)} layouts: kept within {most['kept']:.4%} (bar {memory_check.BAR_KEPT:.1%}), peak of activations "
        f"within {most['peak']:.3%}, of {len(steps)} whole steps within {most['step']:.2%} (bar "
        f"{step_check.BAR:.0%}): {'met' if ok else 'MISSED'}"
    )
    return int(args.check and not ok)
