"""Predicted against measured training steps of our DiT on one device, after `emulate calibrate`.

    python benchmarks/emulator_gpu.py --check          (a CUDA device; bars: median error 5 %, largest 10 %, memory 5 %)
    python benchmarks/emulator_gpu.py --device cpu     (reported only: the bars are a GPU's)

Calibration and test shapes are fixed here and in `stepvideo.emulator.calibrate`, and are disjoint: 3 products and 2
attentions against whole steps of other widths and lengths (forward, backward, AdamW; no recomputation, no compiler).
"""

from __future__ import annotations

import argparse
import json
import sys
from statistics import median

import torch
from model_speed import machine

from stepvideo.emulator import calibrate
from stepvideo.emulator.activations import MicroBatch
from stepvideo.emulator.machine import Target
from stepvideo.emulator.plan import Plan
from stepvideo.emulator.train_memory import Training, train_memory
from stepvideo.models.config import DiTConfig
from stepvideo.models.dit import DiT
from stepvideo.parallel.config import TrainParallelConfig
from stepvideo.training.predict import Micro, step_seconds

CASES = {
    "cuda": [
        (DiTConfig(num_attention_heads=24, num_layers=6), MicroBatch(1, (12, 34, 62))),
        (DiTConfig(num_attention_heads=24, num_layers=6), MicroBatch(2, (36, 12, 20))),
        (DiTConfig(num_attention_heads=32, num_layers=4), MicroBatch(1, (24, 34, 62))),
        (DiTConfig(num_attention_heads=48, num_layers=2), MicroBatch(1, (36, 12, 20))),
        (DiTConfig(num_attention_heads=48, num_layers=2), MicroBatch(20, (1, 16, 16))),
        (DiTConfig(num_attention_heads=16, num_layers=8), MicroBatch(1, (36, 16, 16))),
    ],
    "cpu": [
        (DiTConfig(6, 64, 4, 16, 16, caption_channels=[256, 128]), MicroBatch(1, (5, 16, 16), 64, 16)),
        (DiTConfig(8, 64, 3, 16, 16, caption_channels=[256, 128]), MicroBatch(2, (3, 16, 16), 64, 16)),
        (DiTConfig(12, 64, 2, 16, 16, caption_channels=[256, 128]), MicroBatch(1, (4, 20, 20), 64, 16)),
        (DiTConfig(4, 64, 6, 16, 16, caption_channels=[256, 128]), MicroBatch(1, (9, 16, 16), 64, 16)),
        (DiTConfig(8, 64, 2, 16, 16, caption_channels=[256, 128]), MicroBatch(8, (1, 16, 16), 64, 16)),
    ],
}
BARS = {"median": 0.05, "max": 0.10, "memory": 0.05}


def arguments(cfg: DiTConfig, b: MicroBatch, device: torch.device) -> list[torch.Tensor]:
    llm, clip = cfg.caption_channels
    latent = (b.samples, b.latent[0], cfg.in_channels, *b.latent[1:])
    shapes = [latent, (b.samples, b.text, llm), (b.samples, b.clip, clip), (b.samples,)]
    return [torch.randn(shape, device=device) for shape in shapes]


def measured(
    cfg: DiTConfig, batch: MicroBatch, device: torch.device, precision: str, seconds: float
) -> dict[str, float]:
    """Median seconds of a step, their spread, and peak bytes (0 on a CPU)."""
    torch.manual_seed(0)
    dit, given = DiT(cfg).to(device), arguments(cfg, batch, device)
    optimizer = torch.optim.AdamW(dit.parameters(), fused=device.type == "cuda")

    def step() -> None:
        optimizer.zero_grad()
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
            out = dit(*given)
        out.float().square().mean().backward()
        optimizer.step()

    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    found = sorted(calibrate.times(step, device, seconds))
    peak = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else 0
    return {"seconds": median(found), "spread": (found[-1] - found[0]) / median(found), "bytes": float(peak)}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--precision", choices=("bf16", "fp32"))
    parser.add_argument("--seconds", type=float, default=2.0, help="of each case")
    parser.add_argument("--check", action="store_true", help="exit 1 when a bar is missed")
    args = parser.parse_args()
    device = calibrate.device_of(args.device)
    precision = args.precision or ("bf16" if device.type == "cuda" else "fp32")
    name = calibrate.device_name(device)
    gpu = calibrate.hardware(taken := calibrate.measure(device, precision), name, *calibrate.memory_of(device))
    target = Target(name, gpu, calibrate.constants(taken, gpu, precision), "measured", 4 if precision == "fp32" else 2)
    rows = []
    for cfg, batch in CASES[device.type]:
        found = measured(cfg, batch, device, precision, args.seconds)
        text = batch.text + batch.clip
        predicted = step_seconds(cfg, [Micro(batch.samples, batch.latent)], Plan(), target, text, batch.clip)
        how = Training(TrainParallelConfig(), 1, "32-true" if precision == "fp32" else "bf16-mixed")
        held = float(train_memory(cfg, batch, how, reserve=0).total)
        row = {"width": cfg.inner_dim, "layers": cfg.num_layers, "samples": batch.samples, "latent": list(batch.latent)}
        row |= {**found, "predicted": predicted.total, "error": predicted.total / found["seconds"] - 1}
        row |= {"memory_error": held / found["bytes"] - 1 if found["bytes"] else None, "parts": predicted.parts}
        rows.append(row)
        print(f"{row['width']:5} x {row['layers']} layers, {row['samples']} x {row['latent']}: measured "
              f"{row['seconds']:.4g} s (spread {row['spread']:.0%}), predicted {row['predicted']:.4g} s: "
              f"{row['error']:+.1%}", file=sys.stderr)  # fmt: skip
    errors = [abs(r["error"]) for r in rows]
    memory = [abs(r["memory_error"]) for r in rows if r["memory_error"] is not None]
    result = {"median": median(errors), "max": max(errors), "memory": max(memory, default=0.0)}
    ok = all(result[k] <= bar for k, bar in BARS.items())
    constants = {k: getattr(target.calibration, k) for k in target.calibration.provenance}
    print(json.dumps({**machine(), "device": name, "precision": precision, "ok": ok, **result, "bars": BARS,
                      "constants": constants, "rows": rows}, indent=1))  # fmt: skip
    return int(args.check and not ok)


if __name__ == "__main__":
    sys.exit(main())
