"""A training step of a Step-Video-shaped DiT on this machine's device: speed and memory, beside what was predicted.

    python benchmarks/dit_step.py [--json] [--check] [--only 25k] [--steps 8]

On a CUDA device a model of 2 B parameters takes steps as a training stage of one process does (`TrainModule` under
Lightning: bf16 with fp32 master weights, AdamW, each block compiled, cuDNN attention first, nothing recomputed).
Memory is predicted before anything is allocated. `--check` exits 1 below 50 % MFU at 8,640 tokens a video, below 45 %
at 25,296, or if the peak is more than 10 % from the prediction. MFU counts what `training_flops` counts.

Without a device the same steps run at toy size on the CPU, and `--check` compares that count with torch's own.
"""

from __future__ import annotations

import argparse
import json
import logging
import statistics
import sys
import time
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import lightning as L
import torch
from model_speed import machine
from torch.utils.data import DataLoader, Dataset
from torch.utils.flop_counter import FlopCounterMode

from stepvideo.data.source import Batch
from stepvideo.emulator.activations import MicroBatch
from stepvideo.emulator.dit_memory import dit_parameters
from stepvideo.emulator.flops import training_flops, video_tokens
from stepvideo.emulator.train_memory import Training, train_memory
from stepvideo.models.config import DiTConfig
from stepvideo.models.dit import DiT
from stepvideo.parallel.config import TrainParallelConfig
from stepvideo.parallel.train import TrainParallel
from stepvideo.training.config import OptimConfig, TrainConfig
from stepvideo.training.monitor.peak import peak_tflops
from stepvideo.training.strategy import trainer
from stepvideo.training.train import TrainModule

PRECISION = "bf16-mixed"
MEMORY_MARGIN = 0.10
WARM = 3  # steps that compile and allocate


@dataclass(frozen=True)
class Case:
    name: str
    cfg: DiTConfig
    batch: MicroBatch
    mfu: float = 0.0  # the bar
    parallel: TrainParallelConfig = field(default_factory=TrainParallelConfig)

    @property
    def flops(self) -> int:
        """Of a step."""
        text = self.batch.text + self.batch.clip
        return self.batch.samples * training_flops(self.cfg, *self.batch.latent, text, self.batch.clip)

    @property
    def tokens(self) -> int:
        """Of video, of a step."""
        return self.batch.samples * video_tokens(self.cfg, *self.batch.latent)


def cases(cuda: bool) -> list[Case]:
    if not cuda:
        toy = DiTConfig(4, 32, 3, 16, 16, caption_channels=[96, 48])
        return [Case("toy", toy, MicroBatch(4, (3, 4, 4), text=24, clip=12))]
    cfg, compiled = DiTConfig(num_attention_heads=16, num_layers=28), TrainParallelConfig(compile=True)
    return [
        Case("8k: 204 frames at 192x320", cfg, MicroBatch(2, (36, 12, 20)), 0.50, compiled),
        Case("25k: 68 frames at 544x992", cfg, MicroBatch(1, (12, 34, 62)), 0.45, compiled),
    ]


class OneBatch(Dataset):
    """The same batch every step: what it holds does not change the time."""

    def __init__(self, case: Case, steps: int, device: torch.device) -> None:
        b, cfg, draw = case.batch, case.cfg, torch.Generator().manual_seed(0)
        f, h, w = b.latent

        def normal(*shape: int) -> torch.Tensor:
            return torch.randn(shape, generator=draw).to(device)

        self.steps = steps
        self.batch: Batch = {
            "x0": normal(b.samples, f, cfg.in_channels, h, w),
            "x1": normal(b.samples, f, cfg.in_channels, h, w),
            "t": torch.rand(b.samples, generator=draw).to(device),
            "encoder_hidden_states": normal(b.samples, b.text, cfg.caption_channels[0]),
            "encoder_hidden_states_2": normal(b.samples, b.clip, cfg.caption_channels[1]),
            "encoder_attention_mask": torch.ones(b.samples, b.clip + b.text, device=device),
            "kind": "video",
            "ids": [str(i) for i in range(b.samples)],
            "share": 1.0,
        }

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, step: int) -> Batch:
        return {"step": step, "micro": [dict(self.batch)]}


class Clock(L.Callback):
    """Seconds of every step, the device waited for; operations of the last as torch counts them."""

    def __init__(self, count: bool) -> None:
        self.count, self.seconds, self.flops = count, list[float](), 0

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self.counter = None
        assert isinstance(pl_module, TrainModule)
        if self.count and batch["step"] == pl_module.steps - 1:
            self.counter = FlopCounterMode(display=False).__enter__()
        self.start = time.perf_counter()

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.seconds.append(time.perf_counter() - self.start)
        if self.counter is not None:
            self.counter.__exit__(None, None, None)
            self.flops = self.counter.get_total_flops()


def measure(case: Case, steps: int) -> dict[str, Any]:
    """One case as a JSON-able row; bytes, seconds."""
    parallel = TrainParallel.start(case.parallel, 1)
    device, cuda = parallel.device, parallel.device.type == "cuda"
    predicted = train_memory(case.cfg, case.batch, Training(case.parallel, 1, PRECISION), reserve=0)
    batch = OneBatch(case, WARM + steps, device)
    before = torch.cuda.memory_allocated() if cuda else 0
    with torch.device(device):
        dit = DiT(case.cfg)
    dit.init_weights(torch.Generator(device).manual_seed(0))
    cfg = TrainConfig(steps=WARM + steps, optim=OptimConfig(lr=1e-4, ema=0.0))
    module = TrainModule(cfg, dit, SimpleNamespace())  # type: ignore[arg-type]
    module.parallel, module.net_precision = parallel, PRECISION
    clock = Clock(count=not cuda)
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    trainer(parallel, PRECISION, [clock]).fit(module, DataLoader(batch, batch_size=None))
    seconds = statistics.median(clock.seconds[WARM:-1] or clock.seconds[-1:])
    peak, origin = peak_tflops(device, PRECISION)
    return {
        "case": case.name,
        "parameters": dit_parameters(case.cfg).total,
        "samples": case.batch.samples,
        "tokens": case.tokens,
        "step_s": seconds,
        "tokens_per_s": case.tokens / seconds,
        "tflop": case.flops / 1e12,
        "tflops": case.flops / seconds / 1e12,
        "mfu": case.flops / seconds / 1e12 / peak if peak else 0.0,
        "mfu_bar": case.mfu,
        "peak_tflops": peak,
        "peak_from": origin,
        "predicted_bytes": predicted.total,
        "peak_bytes": torch.cuda.max_memory_allocated() - before if cuda else 0,
        "counted_tflop": clock.flops / 1e12,
        "loss": module.curve[-1][1],
    }


def faults(row: dict[str, Any]) -> list[str]:
    """What a row misses."""
    found = []
    if row["mfu"] < row["mfu_bar"]:
        found.append(f"{row['case']}: MFU {row['mfu']:.1%}, at least {row['mfu_bar']:.0%} is asked")
    if row["peak_bytes"] and abs(row["predicted_bytes"] / row["peak_bytes"] - 1) > MEMORY_MARGIN:
        found.append(
            f"{row['case']}: the predicted memory is {row['predicted_bytes'] / row['peak_bytes']:.2f} of the peak"
        )
    if row["counted_tflop"] and row["counted_tflop"] != row["tflop"]:
        found.append(f"{row['case']}: torch counts {row['counted_tflop']} TFLOP a step, we {row['tflop']}")
    return found


def describe(row: dict[str, Any]) -> str:
    memory = f"predicted {row['predicted_bytes'] / 1e9:.2f} GB"
    if row["peak_bytes"]:
        memory += f", peak {row['peak_bytes'] / 1e9:.2f} GB"
    counted = f", torch counts {row['counted_tflop']:.6g}" if row["counted_tflop"] else ""
    return (
        f"{row['case']}: {row['parameters'] / 1e9:.4g} B parameters, {row['tokens']} tokens a step\n"
        f"  {row['step_s'] * 1e3:.1f} ms, {row['tokens_per_s']:.0f} tokens/s, {row['tflops']:.4g} TFLOP/s = "
        f"{row['mfu']:.1%} MFU of {row['peak_tflops']:.4g} ({row['peak_from']})\n"
        f"  {row['tflop']:.6g} TFLOP a step{counted}; memory {memory}; loss {row['loss']:.4f}"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--check", action="store_true", help="exit 1 where a bar is missed")
    parser.add_argument("--only", default="", help="cases whose name begins so")
    parser.add_argument("--steps", type=int, default=8, help="measured steps (default 8)")
    args = parser.parse_args()
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    cuda = torch.cuda.is_available()
    chosen = [c for c in cases(cuda) if c.name.startswith(args.only)]
    if not chosen:
        parser.error(f"--only {args.only}: no case begins so; there are {', '.join(c.name for c in cases(cuda))}")
    rows = []
    for case in chosen:
        rows.append(measure(case, args.steps))
        if cuda:
            torch.cuda.empty_cache()
        if not args.json:
            print(describe(rows[-1]))
    if args.json:
        device = torch.cuda.get_device_name() if cuda else "cpu"
        print(json.dumps({**machine(), "device": device, "rows": rows}, indent=1))
    found = [fault for row in rows for fault in faults(row)]
    for fault in found:
        print(fault, file=sys.stderr)
    return int(args.check and bool(found))


if __name__ == "__main__":
    sys.exit(main())
