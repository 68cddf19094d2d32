"""How many training plans a second the emulator costs: the plain search space, and plans that share nothing.

    python benchmarks/emulator.py [--json] [--check]

One process. "grid": every combination of the search space of Table 2 with every number of recomputed layers, for the
30B model at 540P, as an open mesh; "list": as many plans drawn at random from it, each with fields of its own. Counted
are time and validity of every plan; the median over repeats. `--check` exits 1 below 1e6 a second of the grid.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time

import numpy as np
from model_speed import machine

from stepvideo.emulator.calibration import Calibration
from stepvideo.emulator.hardware import Cluster, find
from stepvideo.emulator.networks import Size, dit_workload
from stepvideo.emulator.plan import NUMBERS, Plan, grid, valid
from stepvideo.emulator.step import step
from stepvideo.models.config import DiTConfig

BAR = 1e6
AXES = {
    "tensor": [1, 2, 4, 8],
    "context": [1, 2, 3, 4, 6, 8],
    "pipeline": [1, 2, 3, 4, 6, 8, 12, 16],
    "virtual": [1, 2, 3, 4, 6, 8, 12, 16, 24, 48],
    "recompute": np.arange(49) / 48,
}


def space() -> Plan:
    """94,080 plans; micro-batches of every plan are such that its nodes have two videos each."""
    found = grid(AXES)
    return Plan(
        **{name: getattr(found, name) for name in AXES}, micro_batches=np.maximum(found.network // 4, found.pipeline)
    )


def shuffled(plan: Plan) -> Plan:
    """The same plans as a list in which every field is an array of its own."""
    order = np.random.default_rng(0).permutation(int(np.prod(plan.shape)))
    numbers = {n: np.broadcast_to(getattr(plan, n), plan.shape).ravel()[order] for n in NUMBERS}
    return Plan(context_kind=plan.context_kind, **numbers)


def measure(repeats: int) -> dict[str, float]:
    work, cluster = dit_workload(DiTConfig(), [Size(204, 544, 992)]), Cluster(find("H800"), 3072)
    rates: dict[str, float] = {}
    for name, plan in (("grid", space()), ("list", shuffled(space()))):
        times = []
        for _ in range(repeats):
            start = time.perf_counter()
            step(work, cluster, plan, Calibration())
            valid(plan, work)
            times.append(time.perf_counter() - start)
        rates[name] = float(np.prod(plan.shape)) / statistics.median(times)
    return rates


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object in place of lines")
    parser.add_argument("--check", action="store_true", help=f"exit 1 below {BAR:g} plans a second")
    parser.add_argument("--repeats", type=int, default=9)
    args = parser.parse_args()
    rates = measure(args.repeats)
    if args.json:
        print(json.dumps(machine() | {"plans_per_s": rates, "bar": BAR}, indent=1))
    else:
        print("\n".join(f"{name}: {rate:.3g} plans a second" for name, rate in rates.items()))
    return int(args.check and rates["grid"] < BAR)


if __name__ == "__main__":
    sys.exit(main())
