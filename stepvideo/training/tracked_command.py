"""`stepvideo emulate validate`: of a CSV file, or of the trainings of a store, whose device it can calibrate."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stepvideo.emulator import validate

if TYPE_CHECKING:
    from stepvideo.emulator.machine import Target
    from stepvideo.training.tracked import Row

HELP = "predicted step times beside measured ones: of a CSV file, or of your own trainings (--runs STORE)"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    validate.add_arguments(parser)
    parser.add_argument("--runs", type=Path, metavar="STORE", help="judge by the trainings of this store instead")
    parser.add_argument(
        "--write",
        type=Path,
        nargs="?",
        const=Path(),
        metavar="DIR",
        help="with --runs: fit the devices' constants to them and write them where jobs on those devices look (or into "
        "DIR), unless stages left out are then predicted worse",
    )


def call(args: argparse.Namespace) -> int:
    """Prints what was found; 1: constants were to be written and no device's were.

    Raises:
        ConfigError: neither or both of file and store, or nothing in it.
    """
    from stepvideo.artifact import Store
    from stepvideo.errors import ConfigError
    from stepvideo.training.tracked import read

    if (args.file is None) == (args.runs is None):
        raise ConfigError("give FILE.csv or --runs STORE, one of them")
    if args.runs is None:
        if args.write is not None:
            raise ConfigError("--write is of --runs; the constants of a CSV file go to --save FILE.yaml")
        return validate.call(args)
    if args.calibrated_on or args.save:
        raise ConfigError("--calibrated-on and --save are of FILE.csv; --runs has --write")
    rows, remarks = read(Store(args.runs))
    devices = [
        _device([r for r in rows if r.device == device], args.runs.name, args.write)
        for device in dict.fromkeys(r.device for r in rows)
    ]
    result = {"store": str(args.runs), "devices": devices, "remarks": remarks}
    print(json.dumps(result, indent=1) if args.json else table(result))
    return int(args.write is not None and not any("file" in d for d in devices))


def _device(rows: list[Row], store: str, write: Path | None) -> dict[str, Any]:
    """What is said of the rows of one device; errors in percent of the measured."""
    from stepvideo.emulator.machine import of_device

    device, precision = rows[0].device
    told = [r for r in rows if r.predicted]
    found = {"device": device, "precision": precision, **_size([r.error for r in told])}
    found["stages"] = [_stage([r for r in rows if r.stage == s]) for s in dict.fromkeys(r.stage for r in rows)]
    if not precision:  # log lines only
        return found
    target = of_device(device, precision)
    if target is None:
        unknown = f"{device!r} contains no name of the catalogue: run `stepvideo emulate calibrate` on it first"
        return found | {"not_written": unknown}
    return found if write is None else found | _refit(rows, target, store, write)


def _refit(rows: list[Row], target: Target, store: str, write: Path) -> dict[str, Any]:
    import numpy as np

    from stepvideo.emulator import machine
    from stepvideo.emulator.calibration import ranges
    from stepvideo.training.tracked import errors, refit

    def miss(logs: Any) -> dict[str, Any]:
        return _size(np.expm1(logs))

    stages = list(dict.fromkeys(r.stage for r in rows))
    new = refit(rows, target.gpu, target.calibration, f"{', '.join(stages)} of {store}")
    of = errors(rows, target.gpu)
    found: dict[str, Any] = {"basis": target.basis, "before": miss(of(target.calibration))}
    found["fitted"] = miss(of(new.calibration))
    limits = ranges()
    found["constants"] = [
        {"name": n, "value": getattr(new.calibration, n), "low": limits[n][0], "high": limits[n][1]} for n in new.names
    ]
    if not new.names:
        return found | {"not_written": "the measurements tell no constant"}
    if new.left_out is not None:
        found["left_out"] = miss(new.left_out)
        if found["left_out"]["mape"] >= found["before"]["mape"]:
            return found | {"not_written": "stages left out are not predicted better"}
    name = machine.slug(*rows[0].device)
    folder = machine.folder() if write == Path() else write
    return found | {"file": str(machine.save(target.gpu, new.calibration, folder, name))}


def _size(error: Any) -> dict[str, Any]:
    size = [100 * abs(float(e)) for e in error]
    return {"mape": sum(size) / len(size) if size else None, "max": max(size, default=None), "rows": len(size)}


def _stage(rows: list[Row]) -> dict[str, Any]:
    """Means over its steps."""
    steps = sum(r.steps for r in rows)
    measured = sum(r.measured * r.steps for r in rows) / steps
    predicted = sum(r.predicted * r.steps for r in rows) / steps
    worst = max((r.error for r in rows), key=abs)
    said = {"predicted_s": predicted, "error": 100 * (predicted / measured - 1), "worst": 100 * worst}
    about = {"stage": rows[0].stage, "sizes": len(rows), "steps": steps, "measured_s": measured}
    return about | (said if predicted else dict.fromkeys(said))


def table(result: dict[str, Any]) -> str:
    """For reading."""
    wide = max(len(s["stage"]) for d in result["devices"] for s in d["stages"])
    lines = []
    for d in result["devices"]:
        lines += [f"{d['device']} {d['precision']}".rstrip(), ""]
        lines += [f"  {'':{wide}} sizes  steps  measured s  predicted s    error    worst"]
        for s in d["stages"]:
            said = "           –        –        –"
            if s["predicted_s"] is not None:
                said = f"{s['predicted_s']:12.4g} {s['error']:+7.1f}% {s['worst']:+7.1f}%"
            lines.append(f"  {s['stage']:{wide}} {s['sizes']:5} {s['steps']:6} {s['measured_s']:11.4g} {said}")
        lines += ["", f"  as the jobs predicted: {_words(d)}"] if d["rows"] else [""]
        if "before" in d:
            lines.append(f"  by today's constants ({d['basis']}): {_words(d['before'])}")
            lines += [
                f"  {c['name']:20} {c['value']:10.4g}   of {c['low']:g} to {c['high']:g}{_end(c)}"
                for c in d["constants"]
            ]
            lines.append(f"  fitted to these rows: {_words(d['fitted'])}")
            left = _words(d["left_out"]) if "left_out" in d else "one stage only, so nobody knows if it helps others"
            lines.append(f"  each stage by constants fitted to the others: {left}")
        if "not_written" in d:
            lines.append(f"  not fitted: {d['not_written']}" if "before" not in d else f"  kept: {d['not_written']}")
        if "file" in d:
            lines.append(f"  written to {d['file']}")
        lines.append("")
    by_remark: dict[str, list[str]] = {}
    for stage, remark in result["remarks"].items():
        by_remark.setdefault(remark, []).append(stage)
    return "\n".join(lines + [f"{', '.join(stages)}: {remark}" for remark, stages in by_remark.items()]).rstrip()


def _words(size: dict[str, Any]) -> str:
    return f"mean error {size['mape']:.1f} %, largest {size['max']:.1f} %, {size['rows']} rows"


def _end(c: dict[str, Any]) -> str:
    near = min(abs(c["value"] - c["low"]), abs(c["value"] - c["high"])) < 0.01 * c["value"]
    return "   at its end: the terms lack something" if near else ""
