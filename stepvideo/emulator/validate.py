"""`stepvideo emulate validate`: the emulator's step times beside measured ones. Light until it is called."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stepvideo.emulator.calibration import Calibration
    from stepvideo.emulator.fit import Held
    from stepvideo.emulator.measured import File

VARIANTS = 28
"""Structures of the cost model that were tried on the three files of measurements before this one was kept: holding
models out does not correct for that choice (docs/decisions/012-step-emulator.md lists them)."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "file", type=Path, nargs="?", metavar="FILE.csv", help="measured step times; the header says of which form"
    )
    parser.add_argument(
        "--calibrated-on",
        type=Path,
        metavar="FILE",
        help="predict with the constants that suit these other measurements (CSV), or with a calibration file (YAML); "
        "nothing is fitted to FILE.csv then",
    )
    parser.add_argument("--save", type=Path, metavar="FILE.yaml", help="write the constants that suit all rows")
    parser.add_argument("--json", action="store_true", help="print JSON")


def call(args: argparse.Namespace) -> int:
    result = validate(args.file, args.calibrated_on, args.save)
    print(json.dumps(result, indent=1) if args.json else table(result))
    return 0


def validate(path: Path, calibrated_on: Path | None = None, save: Path | None = None) -> dict[str, Any]:
    """Errors of the predicted step times of a file, in percent of the measured.

    Without `calibrated_on`, every model (or layout of a model, where a file has few) is predicted by constants fitted
    to the others.

    Returns:
        mape, max, rows; `models` with the same of each part and its bias; `constants` with value and physical range;
        how many of them were fitted, and how many structures were tried.

    Raises:
        ConfigError: a file that cannot be read; names line and column. Or one that has nothing to hold out.
    """
    from stepvideo.emulator import calibration as constants
    from stepvideo.emulator.fit import fit, held_out, transferred
    from stepvideo.emulator.measured import read
    from stepvideo.errors import ConfigError

    file = read(path)
    if calibrated_on is None:
        if sum(len(file.parts(r)) for r in file.runs) < 2:
            raise ConfigError(
                f"{path} has one model only, so none can be held out; give measurements of others by --calibrated-on"
            )
        source, found, parts = file.name, fit(file), list(held_out(file))
        held = "layout" if file.form.by_layout else "model"
    else:
        source, held = calibrated_on.name, "all"
        if calibrated_on.suffix in (".yaml", ".yml"):
            found = constants.read(calibrated_on)
        else:
            runs = read(calibrated_on)
            file, found = file.as_done_in(runs), fit(runs)
        parts = list(transferred(file, found))
    if save is not None:
        constants.save(found, save)
    return _result(file, parts, found) | {"held_out": held, "calibrated_on": source}


def _result(file: File, parts: Sequence[Held], found: Calibration) -> dict[str, Any]:
    import numpy as np

    from stepvideo.emulator.calibration import ranges

    def summary(error: Any) -> dict[str, float | int]:
        size = 100 * np.abs(error)
        return {"mape": round(float(size.mean()), 3), "max": round(float(size.max()), 3), "rows": len(error)}

    models = [
        {"model": h.name, **summary(h.error), "bias": round(100 * float(h.error.mean()), 3)}
        | {"worst_line": int(h.runs.lines[np.abs(h.error).argmax()])}
        for h in parts
    ]
    limits = ranges()
    fitted = {name: kind for name, kind in found.provenance.items() if not kind.startswith("prior")}
    rows = [
        {"name": name, "value": value, "low": limits[name][0], "high": limits[name][1]}
        | {"provenance": found.provenance.get(name, "prior")}
        for name, value in found.values().items()
    ]
    return summary(np.concatenate([h.error for h in parts])) | {
        "file": file.name,
        "gpu_tflops": file.gpu.bf16_tflops,
        "recomputed": bool(np.all(file.runs[0].plan.recompute)),
        "models": models,
        "fitted": len(fitted),
        "variants": VARIANTS,
        "constants": rows,
    }


HOW = {
    "model": "each model predicted by constants fitted to the others",
    "layout": "each layout of each model predicted by constants fitted to the others",
    "all": "predicted without fitting anything to it",
}


def table(result: dict[str, Any]) -> str:
    """For reading."""
    width = max(len(m["model"]) for m in result["models"])
    lines = [f"{result['file']}: {HOW[result['held_out']]}, calibrated on {result['calibrated_on']}", ""]
    lines.append(f"  {'':{width}}   rows   mean %   bias %    max %   worst line")
    for m in result["models"]:
        lines.append(
            f"  {m['model']:{width}} {m['rows']:6d} {m['mape']:8.2f} {m['bias']:+8.2f} {m['max']:8.2f} "
            f"{m['worst_line']:12d}"
        )
    lines.append(f"  {'all':{width}} {result['rows']:6d} {result['mape']:8.2f} {'':8} {result['max']:8.2f}")
    recomputed = "with" if result["recomputed"] else "without"
    lines += ["", f"taken to run {recomputed} recomputation; {result['fitted']} constants fitted:"]
    for c in result["constants"]:
        if not c["provenance"].startswith("prior"):
            lines.append(f"  {c['name']:20} {c['value']:10.4g}   of {c['low']:g} to {c['high']:g}")
    lines += ["", f"{result['variants']} structures were tried before this one was kept; see docs/decisions/012-*"]
    return "\n".join(lines)
