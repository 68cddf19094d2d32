"""Load balance measured: two processes compute the packs of a mixed stream; their utilisation against the computed.

    python benchmarks/balance.py [--json] [--check]

Each rank runs forward and backward of a small DiT for its packs, one thread, with a barrier after every step. The work
of a step is its processor time (and, beside it, its wall time), the median over repeats; utilisation is that of the
mean rank over that of the busiest, mean over the steps, exactly as `stepvideo balance` computes it from FLOPs.
Nothing is calibrated: the shapes are such that time follows FLOPs, and the GFLOP/s of every bucket, measured alone
before, show how well. `--check` exits 1 when processor time and FLOPs differ by more than 5 points.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from model_speed import machine

from stepvideo.data.balance import Pack, Plan
from stepvideo.data.balance_config import BalanceConfig
from stepvideo.data.balance_sizes import mean_size
from stepvideo.data.balance_table import utilisation
from stepvideo.data.buckets import Bucket, sample_tflops
from stepvideo.models.config import DiTConfig, VAEConfig
from stepvideo.models.dit import DiT
from stepvideo.parallel.launch import exit_code, is_rank, rank, run_ranks

RANKS, POINTS = 2, 0.05
TEXT = (24, 8)  # tokens of Step-LLM and CLIP
MODEL = DiTConfig(4, 64, 1, 16, 16, caption_channels=[64, 64])
# Table 3 with a quarter of the frames and a quarter of the pixels: costs of about 1 : 2 : 3, and an image of a ninth.
VIDEOS: tuple[str, ...] = ("51x128x128", "51x96x160", "34x128x128", "34x96x160", "17x128x128", "17x96x160")
IMAGES = "1x128x128"
METHODS = {"none": 0, "coarse": 0, "uniform": 2, "hybrid": 2}  # and images a rank
CLIPS = 600  # of each bucket; they are all alike

CLOCKS: dict[str, Callable[[], float]] = {"cpu": time.process_time, "wall": time.perf_counter}


def costs() -> dict[str, float]:
    """TFLOP of a training sample of each bucket."""
    return {b: sample_tflops(Bucket.parse(b), MODEL, VAEConfig(), sum(TEXT)) for b in (*VIDEOS, IMAGES)}


def plan(method: str) -> Plan:
    """Equally many clips of each bucket; two images a rank where the method places any."""
    sizes, images = dict.fromkeys(VIDEOS, CLIPS), METHODS[method]
    cfg = BalanceConfig(method, packs=RANKS, batch_size=1)
    found = Plan(costs(), sizes, CLIPS, cfg, seed=0)
    if images:
        beta = mean_size(sizes, found.batch_sizes) / images
        found = Plan(costs(), sizes, CLIPS, replace(cfg, video_to_image=beta), seed=0)
    return found


def network() -> DiT:
    """Seeded weights, of which none is zero: gates of zero would leave work out of the backward."""
    torch.manual_seed(0)
    net = DiT(MODEL)
    for p in net.parameters():
        p.data.normal_(std=0.05)
    return net


def compute(net: DiT, bucket: str, samples: int) -> None:
    """Forward and backward of a batch."""
    frames, height, width = Bucket.parse(bucket)
    x = torch.zeros(samples, VAEConfig().num_latents(frames), MODEL.in_channels, height // 16, width // 16)
    llm, clip = (torch.zeros(samples, n, c) for n, c in zip(TEXT, MODEL.caption_channels))
    net(x, llm, clip, torch.full((samples,), 0.5)).square().mean().backward()


def work(net: DiT, pack: Pack) -> dict[str, float]:
    """Seconds that a rank computes for a pack, by clock."""
    start = {name: clock() for name, clock in CLOCKS.items()}
    if pack.videos:
        compute(net, pack.bucket, len(pack.videos))
    if pack.images:
        compute(net, IMAGES, len(pack.images))
    net.zero_grad()
    return {name: clock() - start[name] for name, clock in CLOCKS.items()}


def speeds(net: DiT, repeats: int) -> dict[str, float]:
    """GFLOP/s of each bucket, in a batch of the size that its packs have, by processor time."""
    found, sizes = {}, plan("coarse").batch_sizes
    for bucket, tflops in costs().items():
        n = sizes.get(bucket, METHODS["hybrid"])
        pack = Pack(bucket, list(range(n)), [])
        work(net, pack)
        found[bucket] = 1e3 * n * tflops / statistics.median(work(net, pack)["cpu"] for _ in range(repeats))
    return found


def measure(steps: int, repeats: int) -> dict[str, Any]:
    """Called by every rank; the same answer on all."""
    net, me = network(), rank()
    plans = {method: plan(method) for method in METHODS}
    speed = speeds(net, repeats)
    seconds = {m: torch.zeros(len(CLOCKS), repeats, steps, RANKS, dtype=torch.float64) for m in METHODS}
    for r in range(repeats):
        for method, p in plans.items():
            for step in range(steps):
                dist.barrier()
                for i, spent in enumerate(work(net, p.packs(step)[me]).values()):
                    seconds[method][i, r, step, me] = spent
    rows = []
    for method, p in plans.items():
        dist.all_reduce(seconds[method])
        flops = np.array([[p.cost(pack) for pack in p.packs(step)] for step in range(steps)])
        row = {"method": method, "images": METHODS[method], "computed": float(utilisation(flops).mean())}
        for name, spent in zip(CLOCKS, seconds[method].numpy()):
            row[name] = float(utilisation(np.median(spent, 0)).mean())
        rows.append(row)
    return {"steps": steps, "repeats": repeats, "gflops": speed, "rows": rows}


def faults(result: dict[str, Any]) -> list[str]:
    """The methods whose measured utilisation is not the computed one."""
    return [
        f"{r['method']}: {r['cpu']:.3f} measured, {r['computed']:.3f} computed; at most {POINTS} apart is asked"
        for r in result["rows"]
        if abs(r["cpu"] - r["computed"]) > POINTS
    ]


def table(result: dict[str, Any]) -> str:
    speed = ", ".join(f"{b} {s:.1f}" for b, s in result["gflops"].items())
    lines = [f"GFLOP/s by bucket: {speed}", "", "method   images a rank  computed  processor time  wall time"]
    lines += [
        f"{r['method']:7}  {r['images']:13}  {r['computed']:8.3f}  {r['cpu']:14.3f}  {r['wall']:9.3f}"
        for r in result["rows"]
    ]
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object in place of a table")
    parser.add_argument("--check", action="store_true", help="exit 1 where measured and computed differ too much")
    parser.add_argument("--steps", type=int, default=24)
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    if not is_rank():
        return exit_code(run_ranks([__file__, *sys.argv[1:]], RANKS, quiet=True))
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    try:
        result = measure(args.steps, args.repeats)
    finally:
        dist.destroy_process_group()
    found = faults(result)
    print(json.dumps(machine() | {"margin": POINTS} | result, indent=1) if args.json else table(result))
    for fault in found if rank() == 0 else []:
        print(fault, file=sys.stderr)
    return int(args.check and bool(found))


if __name__ == "__main__":
    sys.exit(main())
