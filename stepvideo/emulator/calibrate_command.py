"""`stepvideo emulate calibrate`: measures this machine and writes what predictions here then use."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

HELP = "measure products, attention, memory and exchanges of this machine (under a minute), for predictions on it"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", default="auto", metavar="KIND", help="auto (a GPU if there is one), cpu or cuda")
    parser.add_argument("--precision", choices=("bf16", "fp32"), help="of the training (bf16 on a GPU, fp32 on a CPU)")
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder of the two files; a user's cache by default")
    parser.add_argument("--seconds", type=float, default=0.5, metavar="S", help="of each measurement (0.5)")
    parser.add_argument("--json", action="store_true", help="print JSON")


def call(args: argparse.Namespace) -> int:
    """Prints and writes the constants; under torchrun the ranks' exchanges too.

    Raises:
        ConfigError: a device that is not there.
    """
    from stepvideo.emulator import calibrate
    from stepvideo.emulator.calibration import meanings
    from stepvideo.emulator.machine import folder, save, slug
    from stepvideo.errors import ConfigError

    device = calibrate.device_of(args.device)
    if not args.seconds > 0:
        raise ConfigError(f"--seconds {args.seconds:g}: give more than 0")
    precision = args.precision or ("bf16" if device.type == "cuda" else "fp32")
    with calibrate.together(device) as rank:
        found = calibrate.measure(device, precision, args.seconds)
    if rank:
        return 0
    name = calibrate.device_name(device)
    gpu = calibrate.hardware(found, name, *calibrate.memory_of(device))
    constants = calibrate.constants(found, gpu, precision)
    path = save(gpu, constants, args.out or folder(), slug(name, precision))
    measured = {k: getattr(constants, k) for k in constants.provenance}
    if args.json:
        about = {"device": name, "precision": precision, "peak_tflops": gpu.bf16_tflops, "memory_gbs": gpu.memory_gbs}
        print(json.dumps({**about, "ranks": found.ranks, "constants": measured, "file": str(path)}, indent=1))
        return 0
    print(f"{name}, {precision}: {gpu.bf16_tflops:.4g} TFLOP/s, memory {gpu.memory_gbs:.4g} GB/s")
    for k, value in measured.items():
        print(f"  {k:22} {value:10.4g}  {meanings()[k]}")
    print(f"written to {path}; predictions on this machine use it (emulate step, plan, every training)")
    return 0
