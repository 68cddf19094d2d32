"""Predicted against measured training steps of our DiT on one device, after `emulate calibrate`.

    python benchmarks/emulator_gpu.py --check          (a CUDA device; bars: median error 5 %, largest 10 %, memory 5 %)
    python benchmarks/emulator_gpu.py --device cpu     (reported only: the bars are a GPU's)

Calibration and test shapes are fixed here and in `stepvideo.emulator.calibrate`, and are disjoint: 3 products and 2
attentions against whole steps of other widths and lengths (forward, backward, the trainer's AdamW; no recomputation,
no compiler). Every round calibrates and then measures all cases, so that a machine that other work slows down slows
both; medians of the rounds count, and their spread is told. `--cases cpu` were seen while the cost model was made,
`--cases fresh` were not: they were fixed, and then the structure frozen, before they were first measured.
"""

from __future__ import annotations

import argparse
import gc
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, fields
from statistics import median
from typing import Any

import torch
from model_speed import machine

from stepvideo.emulator import calibrate
from stepvideo.emulator.activations import MicroBatch
from stepvideo.emulator.calibrate import Measured
from stepvideo.emulator.machine import Target
from stepvideo.emulator.plan import Plan
from stepvideo.emulator.train_memory import Training, train_memory
from stepvideo.models.config import DiTConfig
from stepvideo.models.dit import DiT
from stepvideo.parallel.config import TrainParallelConfig
from stepvideo.training.config import OptimConfig
from stepvideo.training.optim import optimizers
from stepvideo.training.predict import Micro, step_seconds

Case = tuple[DiTConfig, MicroBatch]


def small(heads: int, layers: int, samples: int, latent: tuple[int, int, int], text: int = 64) -> Case:
    """For a CPU: heads of 64."""
    return DiTConfig(heads, 64, layers, 16, 16, caption_channels=[256, 128]), MicroBatch(samples, latent, text, 16)


CASES: dict[str, list[Case]] = {
    "cuda": [
        (DiTConfig(num_attention_heads=24, num_layers=6), MicroBatch(1, (12, 34, 62))),
        (DiTConfig(num_attention_heads=24, num_layers=6), MicroBatch(2, (36, 12, 20))),
        (DiTConfig(num_attention_heads=32, num_layers=4), MicroBatch(1, (24, 34, 62))),
        (DiTConfig(num_attention_heads=48, num_layers=2), MicroBatch(1, (36, 12, 20))),
        (DiTConfig(num_attention_heads=48, num_layers=2), MicroBatch(20, (1, 16, 16))),
        (DiTConfig(num_attention_heads=16, num_layers=8), MicroBatch(1, (36, 16, 16))),
    ],
    "cpu": [
        small(6, 4, 1, (5, 16, 16)),
        small(8, 3, 2, (3, 16, 16)),
        small(12, 2, 1, (4, 20, 20)),
        small(4, 6, 1, (9, 16, 16)),
        small(8, 2, 8, (1, 16, 16)),
    ],
    "fresh": [
        small(5, 2, 1, (5, 20, 12), 48),
        small(10, 1, 2, (2, 16, 24), 80),
        small(7, 2, 1, (7, 16, 20)),
        small(3, 3, 4, (1, 16, 20)),
        small(14, 1, 1, (3, 20, 20)),
    ],
    "tiny": [small(1, 1, 1, (1, 4, 4)), small(2, 1, 2, (2, 4, 4), 32)],
}
BARS = {"median": 0.05, "max": 0.10, "memory": 0.05}


def arguments(cfg: DiTConfig, b: MicroBatch, device: torch.device) -> list[torch.Tensor]:
    llm, clip = cfg.caption_channels
    latent = (b.samples, b.latent[0], cfg.in_channels, *b.latent[1:])
    shapes = [latent, (b.samples, b.text, llm), (b.samples, b.clip, clip), (b.samples,)]
    return [torch.randn(shape, device=device) for shape in shapes]


def measured(case: Case, device: torch.device, precision: str, seconds: float) -> tuple[float, float]:
    """Median seconds of a step, and peak bytes (0 on a CPU)."""
    cuda, (cfg, batch) = device.type == "cuda", case
    gc.collect()
    if cuda:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    torch.manual_seed(0)
    dit, given = DiT(cfg).to(device), arguments(cfg, batch, device)
    [optimizer] = optimizers(dit.named_parameters(), OptimConfig())

    def step() -> None:
        optimizer.zero_grad()
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
            out = dit(*given)
        out.float().square().mean().backward()
        optimizer.step()

    found = calibrate.times(step, device, seconds, least=3)
    return median(found), float(torch.cuda.max_memory_allocated(device)) if cuda else 0.0


def middle(rounds: Sequence[Measured]) -> Measured:
    """The median of each measurement."""

    def of(values: Sequence[Any]) -> Any:
        if isinstance(values[0], tuple):
            return tuple(of(x) for x in zip(*values, strict=True))
        return values[0] if all(v == values[0] for v in values) else median(values)  # sizes stay whole

    return Measured(**{f.name: of([getattr(r, f.name) for r in rounds]) for f in fields(Measured)})


def judged(case: Case, target: Target, precision: str, found: Sequence[tuple[float, float]]) -> dict[str, Any]:
    """A case's medians over the rounds beside what is predicted. spread: of the rounds, of the median."""
    cfg, batch = case
    taken, held = [s for s, _ in found], max(b for _, b in found)
    micro = [Micro(batch.samples, batch.latent)]
    predicted = step_seconds(cfg, micro, Plan(), target, batch.text + batch.clip, batch.clip)
    how = Training(TrainParallelConfig(), 1, "32-true" if precision == "fp32" else "bf16-mixed")
    memory = train_memory(cfg, batch, how, reserve=0).total
    return {
        "width": cfg.inner_dim,
        "layers": cfg.num_layers,
        "samples": batch.samples,
        "latent": list(batch.latent),
        "seconds": median(taken),
        "spread": (max(taken) - min(taken)) / median(taken),
        "bytes": held,
        "predicted": predicted.total,
        "error": predicted.total / median(taken) - 1,
        "memory_predicted": memory,
        "memory_error": memory / held - 1 if held else None,
        "parts": {name: s for name, s in predicted.parts.items() if s},
    }


def verdict(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Median and largest error, the largest of memory (None: not measured), and whether all bars are met."""
    errors = [abs(r["error"]) for r in rows]
    memory = [abs(r["memory_error"]) for r in rows if r["memory_error"] is not None]
    result = {"median": median(errors), "max": max(errors), "memory": max(memory, default=None)}
    met = {k: None if (found := result[k]) is None else found <= bar for k, bar in BARS.items()}
    return result | {"bars": BARS, "met": met, "ok": all(met.values())}  # memory that was not measured is not met


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--cases", choices=list(CASES), help="shapes of the steps (the device's)")
    parser.add_argument("--precision", choices=calibrate.DTYPES)
    parser.add_argument(
        "--seconds", type=float, default=2.0, help="of each case in a round; a quarter of each operator"
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--check", action="store_true", help="exit 1 when a bar is missed or could not be measured")
    args = parser.parse_args(argv)
    device = calibrate.device_of(args.device)
    precision = args.precision or ("bf16" if device.type == "cuda" else "fp32")
    name, cases = calibrate.device_name(device), CASES[args.cases or device.type]
    constants, steps = [], [[] for _ in cases]
    for i in range(args.rounds):
        constants.append(calibrate.measure(device, precision, args.seconds / 4))
        for case, found in zip(cases, steps):
            found.append(measured(case, device, precision, args.seconds))
        print(f"round {i + 1}: " + ", ".join(f"{found[-1][0]:.4g} s" for found in steps), file=sys.stderr, flush=True)
    taken = middle(constants)
    gpu = calibrate.hardware(taken, name, *calibrate.memory_of(device))
    target = Target(name, gpu, calibrate.constants(taken, gpu, precision), "measured", 4 if precision == "fp32" else 2)
    rows = [judged(case, target, precision, found) for case, found in zip(cases, steps)]
    for r in rows:
        memory = f", memory {r['memory_error']:+.1%}" if r["memory_error"] is not None else ""
        print(f"{r['width']:5} x {r['layers']} layers, {r['samples']} x {r['latent']}: measured {r['seconds']:.4g} s "
              f"(spread {r['spread']:.0%}), predicted {r['predicted']:.4g} s: {r['error']:+.1%}{memory}",
              file=sys.stderr)  # fmt: skip
    fitted = {k: getattr(target.calibration, k) for k in target.calibration.provenance}
    result = {**machine(), "device": name, "precision": precision, "rounds": args.rounds, **verdict(rows)}
    print(json.dumps(result | {"constants": fitted, "measured": asdict(taken), "rows": rows}, indent=1))
    return int(args.check and not result["ok"])


if __name__ == "__main__":
    sys.exit(main())
