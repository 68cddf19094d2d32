"""How fast plans are searched, and whether an optimizer finds what the exhaustive search knows.

    python benchmarks/search.py [--json] [--check] [--seeds 10]

Speed: seconds and memory of every plan of the base space with every number of recomputed layers, as one open mesh; and
the whole exhaustive search, which solves the recomputation instead. Base space: evaluations (different points) until a
plan within 0.5 % of the optimum, of 150; a point is TP, CP, PP and VPP, what fits in memory is solved inside it.
Enlarged space: a mixed stream, 17 axes, 200 evaluations from no known point; MFU found, against random search and the
exact optimum. `--check` exits 1 when a bar is missed.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
import warnings
from functools import partial
from typing import Any

import numpy as np
from model_speed import machine

from flows.search_trials import stream_problem
from stepvideo.data.balance_config import BalanceConfig
from stepvideo.data.config import LatentsConfig
from stepvideo.emulator.activations import MicroBatch
from stepvideo.emulator.hardware import Cluster, find
from stepvideo.emulator.networks import Size, dit_workload
from stepvideo.emulator.objectives import PlanProblem, StreamProblem
from stepvideo.emulator.plan import grid
from stepvideo.emulator.plan_memory import worst
from stepvideo.emulator.search import search
from stepvideo.emulator.space import Job, Space, filled
from stepvideo.emulator.step import step
from stepvideo.models.config import DiTConfig, VAEConfig
from stepvideo.training.config import TrainConfig
from stepvideo.training.stage_jobs import stage_jobs
from tasks.search import Method, OptunaSearch

RATE, SECONDS, NEAR, EVALUATIONS, SHARE = 1e6, 1.0, 0.995, 150, 0.9
ENLARGED = 200
METHODS = (Method("random"), Method("tpe"), Method("tpe", climbs=False), Method("random", climbs=False))
JUDGED = METHODS[0].name  # of the base space; the enlarged one is TPE's
JOBS = {
    "540P, 3072 H800": ("H800", 3072, 768, (204, 544, 992)),
    "192P, 512 H800": ("H800", 512, 1024, (204, 192, 320)),
    "540P, 68 frames, 256 A100": ("A100", 256, 128, (68, 544, 992)),
}


def job(gpu: str, gpus: int, batch: int, size: tuple[int, int, int]) -> Job:
    """The 30B model on one size."""
    cfg, vae = DiTConfig(), VAEConfig()
    latent = vae.num_latents(size[0]), size[1] // vae.spatial_factor, size[2] // vae.spatial_factor
    memory = partial(worst, cfg, [MicroBatch(1, latent)])
    return Job(dit_workload(cfg, [Size(*size)]), Cluster(find(gpu), gpus), batch, memory)


def speed(of: Job, repeats: int = 3) -> dict[str, float]:
    """Configurations a second of one vectorised evaluation, and seconds of the exhaustive search; best of `repeats`."""
    layers = of.work.network.layers
    plan = filled(of, grid(Space().axes | {"recompute": np.arange(layers + 1) / layers}))
    rates, searches = [], []
    for _ in range(repeats):
        started = time.perf_counter()
        size = np.broadcast_to(of.memory(plan), plan.shape)
        seconds = np.broadcast_to(step(of.work, of.cluster, plan, of.calibration).total, plan.shape)
        np.where(size <= of.bytes, seconds, np.inf).argmin()
        rates.append(seconds.size / (time.perf_counter() - started))
        searches.append(search(of).seconds)
    return {"configurations": int(np.prod(plan.shape)), "per_second": max(rates), "search_s": min(searches)}


def base(of: Job, seeds: int) -> dict[str, Any]:
    """By method: how many seeds come near the optimum in time, the median evaluations that takes, how many hit it."""
    problem = PlanProblem(of, Space())
    optimum = problem.optimum()
    assert optimum is not None
    best, found = optimum[1].mfu, {}
    for method in METHODS:
        near, exact = [], 0
        for seed in range(seeds):
            tried = OptunaSearch(problem, method, seed)
            for _ in tried.run(EVALUATIONS):
                pass
            curve = tried.curve()
            near.append(next((i + 1 for i, v in enumerate(curve) if v >= NEAR * best), None))
            exact += curve[-1] >= best * (1 - 1e-9)
        hits = sorted(n for n in near if n is not None)
        median = hits[(seeds - 1) // 2] if len(hits) > (seeds - 1) // 2 else None
        found[method.name] = {"near": len(hits), "exact": exact, "median": median}
    return {"points": len(np.unique(problem.found.index // 16)), "optimum": optimum[0], "mfu": best, "methods": found}


def enlarged(seeds: int) -> dict[str, Any]:
    """Median MFU by method, in points, without a point to start from."""
    train = TrainConfig(dit=DiTConfig(), media="videos", resolution="high", precision="bf16-mixed")
    train.balance = BalanceConfig(packs=32, batch_size=2)
    train.runtime.parallel.compile = True
    latents = LatentsConfig(lengths=[68, 136, 204], resolutions={"low": ["192x320"], "high": ["544x992", "736x736"]})
    jobs = stage_jobs(train, latents, VAEConfig(), Cluster(find("H800"), 256))
    problem: StreamProblem = stream_problem(jobs, Space(pipeline=(1,), virtual=(1,)))
    optimum, found = problem.optimum(), {}
    for method in METHODS:
        mfu = []
        for seed in range(seeds):
            tried = OptunaSearch(problem, method, seed)
            for _ in tried.run(ENLARGED):
                pass
            best = tried.best()
            mfu.append(best[1] if best else 0.0)
        found[method.name] = {"median": statistics.median(mfu), "all": mfu}
    return {"axes": len(problem.axes), "exact": optimum[1].mfu if optimum else None, "methods": found}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--seeds", type=int, default=10)
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    jobs = {name: job(*about) for name, about in JOBS.items()}
    first = next(iter(jobs))
    result: dict[str, Any] = {"machine": machine(), "speed": speed(jobs[first])}
    result["base"] = {name: base(j, args.seeds) for name, j in jobs.items()}
    result["enlarged"] = enlarged(max(args.seeds // 3, 1))
    tpe, plain = (result["enlarged"]["methods"][m]["median"] for m in ("tpe and neighbours", "random"))
    result["verdict"] = (
        f"on the mixed stream Optuna's TPE is {'better than random search' if tpe > plain else 'of no use'}"
    )
    result["bars"] = {
        f"{RATE:g} configurations a second": result["speed"]["per_second"] >= RATE,
        f"base space within {SECONDS:g} s": result["speed"]["search_s"] < SECONDS,
        f"within 0.5 % in {EVALUATIONS} evaluations, 9 of 10 seeds, {first}": result["base"][first]["methods"][JUDGED][
            "near"
        ]
        >= SHARE * args.seeds,
    }
    print(json.dumps(result, indent=1) if args.json else text(result, args.seeds))
    return int(args.check and not all(result["bars"].values()))


def text(result: dict[str, Any], seeds: int) -> str:
    s = result["speed"]
    lines = [
        f"{s['configurations']:,} configurations at {s['per_second'] / 1e6:.1f} M a second; exhaustive search "
        f"{1000 * s['search_s']:.0f} ms"
    ]
    for name, b in result["base"].items():
        lines.append(f"{name}: {b['points']} points, optimum {100 * b['mfu']:.2f} % MFU at {b['optimum']}")
        for method, m in b["methods"].items():
            lines.append(
                f"  {method:24} within 0.5 % {m['near']:2} of {seeds}, median {m['median']}, exact {m['exact']}"
            )
    e = result["enlarged"]
    lines.append(f"mixed stream, {e['axes']} axes, {ENLARGED} evaluations: exact optimum {100 * e['exact']:.2f} % MFU")
    lines += [f"  {name:24} {100 * m['median']:.2f}" for name, m in e["methods"].items()]
    lines.append(result["verdict"])
    return "\n".join(lines + [f"{'met   ' if met else 'MISSED'} {bar}" for bar, met in result["bars"].items()])


if __name__ == "__main__":
    sys.exit(main())
