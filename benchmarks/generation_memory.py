"""What each memory option of generation costs and saves.

    OMP_NUM_THREADS=1 python benchmarks/generation_memory.py [--json] [--check] [--frames 204]

1. Memory at the released size: predicted, and measured by running the real code on the meta device (measure.py). On a
   machine with a CUDA device, also `torch.cuda.max_memory_allocated` of a model that fits it.
2. Time of each option relative to the resident model, in turns, on this machine; how far the output moves; and, on a
   CPU, the bytes beyond the weights.
3. Seams of tiled decoding with the VAE at hand (--vae DIR; random weights say little about seams).

`--check` exits 1 when a prediction is off by more than 10 %, an exact option changes the output, or a lossy one by more
than its bar.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from stepvideo.diffusion.sampling import Sampling
from stepvideo.emulator.memory import Job, Networks
from stepvideo.emulator.tracker import LiveBytes
from stepvideo.inference.memory.config import MemoryConfig
from stepvideo.inference.memory.decode import decode, seam_error
from stepvideo.inference.memory.measure import measure
from stepvideo.inference.memory.offload import offload_layers
from stepvideo.inference.memory.plan import GIB, predict
from stepvideo.inference.memory.quantize import quantizer
from stepvideo.models.checkpoints import load_vae
from stepvideo.models.config import CLIPTextConfig, DiTConfig, StepLLMConfig, VAEConfig
from stepvideo.models.dit import DiT
from stepvideo.models.video_vae import VideoVAE

RELEASED = Networks(DiTConfig(), VAEConfig(), StepLLMConfig(), CLIPTextConfig())
OPTIONS = (
    MemoryConfig(),
    MemoryConfig(cfg_batched=False, vae_tile=512),
    MemoryConfig(quantization="int8", vae_tile=384),
    MemoryConfig(quantization="fp8", vae_tile=256),
    MemoryConfig(offload="layer", prefetch=0),
    MemoryConfig(offload="layer", prefetch=1),
    MemoryConfig(offload="layer", prefetch=2),
    MemoryConfig(offload="layer", quantization="int8", cfg_batched=False, vae_tile=256),
)
MEMORY_BAR = 0.10
MOVED_BAR = {"none": 0.0, "int8": 0.02, "fp8": 0.05}  # relative RMS difference of the DiT's output
REPEATS = 5

Row = dict[str, Any]


def released(frames: int) -> list[Row]:
    """Predicted and measured GiB of every phase; text encoding is only counted where its options differ."""
    job, rows = Job(Sampling(frames=frames)), []
    for options in OPTIONS:
        measured = measure(RELEASED, job, options)
        for phase in predict(RELEASED, job, options).phases:
            own = phase.weights + phase.activations
            row = {"options": options.describe(), "phase": phase.name, "at": phase.where}
            row |= {"measured_gib": measured[phase.name] / GIB, "predicted_gib": own / GIB}
            rows.append(row | {"error": own / measured[phase.name] - 1})
    return rows


def medium(device: torch.device) -> tuple[DiTConfig, dict[str, Tensor]]:
    """A DiT of the released form: large on a GPU, a second an evaluation on a CPU core."""
    big = device.type == "cuda"
    cfg = DiTConfig(24, 128, 16) if big else DiTConfig(4, 128, 12, caption_channels=[512, 256])
    f, h, w = (12, 34, 62) if big else (3, 12, 16)
    draw = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=draw).to(device)

    return cfg, {
        "hidden_states": normal(2, f, cfg.in_channels, h, w),
        "encoder_hidden_states": normal(2, 64, cfg.caption_channels[0]),
        "encoder_hidden_states_2": normal(2, 16, cfg.caption_channels[1]),
        "timestep": torch.full((2,), 0.3, device=device),
    }


def random_dit(cfg: DiTConfig, dtype: torch.dtype) -> DiT:
    dit, draw = DiT(cfg), torch.Generator().manual_seed(0)
    dit.init_weights(draw)
    with torch.no_grad():
        for p in dit.parameters():
            if p.ndim > 1 and not p.any():
                p.normal_(0, p.shape[1] ** -0.5, generator=draw)
    return dit.to(dtype).requires_grad_(False).eval()


def placed(cfg: DiTConfig, options: MemoryConfig, device: torch.device, dtype: torch.dtype) -> DiT:
    dit = random_dit(cfg, dtype)
    if options.quantization != "none":
        quantizer(options.quantization)(dit.transformer_blocks)
    if options.offload == "layer":
        offload_layers(dit, list(dit.transformer_blocks), device, options.prefetch)
        return dit
    return dit.to(device)


def evaluate(dit: DiT, inputs: dict[str, Tensor], batched: bool) -> Tensor:
    if batched:
        return dit(**inputs)
    halves = [{k: v[i : i + 1] for k, v in inputs.items()} for i in range(2)]
    return torch.cat([dit(**half) for half in halves])


@torch.no_grad()
def timed(device: torch.device) -> list[Row]:
    """Median ratio of an option's time to the resident model's, each option in turn with it."""
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    cfg, inputs = medium(device)
    inputs = {k: v if k == "timestep" else v.to(dtype) for k, v in inputs.items()}
    resident = placed(cfg, MemoryConfig(), device, dtype)
    expected = evaluate(resident, inputs, True)
    rows = []
    for options in OPTIONS:
        dit = placed(cfg, options, device, dtype)
        found, peak = peak_of(lambda d=dit, o=options: evaluate(d, inputs, o.cfg_batched), device)
        ratios = []
        for _ in range(REPEATS):
            base = seconds(lambda: evaluate(resident, inputs, True), device)
            ratios.append(seconds(lambda d=dit, o=options: evaluate(d, inputs, o.cfg_batched), device) / base)
        moved = float((found.float() - expected.float()).norm() / expected.float().norm())
        row = {"options": options.describe(), "quantization": options.quantization, "moved": moved}
        row |= {"exact": options.quantization == "none" and options.cfg_batched, "peak_mib": peak / 2**20}
        rows.append(row | {"time_ratio": statistics.median(ratios), "lowest": min(ratios), "highest": max(ratios)})
        del dit
    return rows


def seconds(run: Callable[[], object], device: torch.device) -> float:
    _wait(device)
    start = time.perf_counter()
    run()
    _wait(device)
    return time.perf_counter() - start


def peak_of(run: Callable[[], Tensor], device: torch.device) -> tuple[Tensor, int]:
    """The result, and the greatest number of bytes allocated: on CUDA all, on a CPU those that the run allocates."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        out = run()
        _wait(device)
        return out, torch.cuda.max_memory_allocated(device)
    with LiveBytes() as live:
        out = run()
    return out, live.peak


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@torch.no_grad()
def decoded(folder: Path | None, device: torch.device) -> list[Row]:
    """Tiles against whole frames: time, memory and difference, in units of the range [−1, 1]."""
    cfg = VAEConfig(enc_ch=8, dec_ch=16, num_groups=8, z_channels=16)
    vae = load_vae(folder, device, torch.float32) if folder is not None else VideoVAE(cfg).to(device)
    vae.requires_grad_(False).eval()
    factor, draw = vae.cfg.spatial_factor, torch.Generator().manual_seed(0)
    side = 12 * factor
    video = torch.nn.functional.interpolate(torch.rand(17, 3, 12, 12, generator=draw), (side, side), mode="bicubic")
    video = (video * 2 - 1).clamp(-1, 1)[None].to(device)
    z = vae.encode(video, sample=False)
    whole, base_peak = peak_of(lambda: decode(vae, z), device)
    base = seconds(lambda: decode(vae, z), device)
    rows = []
    for tile, overlap in ((8, 4), (8, 2), (6, 2), (4, 2)):
        tile, overlap = tile * factor, overlap * factor
        _, peak = peak_of(lambda t=tile, o=overlap: decode(vae, z, t, o), device)
        ratio = seconds(lambda t=tile, o=overlap: decode(vae, z, t, o), device) / base
        row = {"side": side, "tile": tile, "overlap": overlap, "time_ratio": ratio, "memory_ratio": peak / base_peak}
        rows.append(row | seam_error(vae, z, tile, overlap) | {"contrast": float(whole.float().std())})
    return rows


def misses(result: Row) -> list[str]:
    found = [
        f"{r['options']}, {r['phase']}: predicted {r['predicted_gib']:.2f}, measured {r['measured_gib']:.2f} GiB"
        for r in result["released"]
        if abs(r["error"]) > MEMORY_BAR
    ]
    for r in result["timed"]:
        bar = 0.0 if r["exact"] else max(MOVED_BAR[r["quantization"]], 1e-5)
        if r["moved"] > bar:
            found.append(f"{r['options']}: the output moved by {r['moved']:.2g}, more than {bar:g}")
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--frames", type=int, default=204)
    parser.add_argument("--vae", type=Path, metavar="DIR", help="a trained VAE in the released layout")
    args = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    result: Row = {
        "date": time.strftime("%Y-%m-%d"),
        "commit": commit,
        "machine": f"{name}, {torch.get_num_threads()} threads, torch {torch.__version__}",
        "job": f"{args.frames} frames of 544x992, guided, bf16",
        "released": released(args.frames),
        "timed": timed(device),
        "decoded": decoded(args.vae, device),
    }
    result["misses"] = misses(result)
    if args.json:
        print(json.dumps(result, indent=1))
    else:
        show(result)
    return 1 if args.check and result["misses"] else 0


def show(result: Row) -> None:
    print(f"{result['date']}, {result['commit']}, {result['machine']}; {result['job']}")
    for r in result["released"]:
        print(
            f"{r['options']:55s} {r['phase']:14s} measured {r['measured_gib']:7.2f} GiB, predicted "
            f"{r['predicted_gib']:7.2f} ({100 * r['error']:+.2f} %), at {r['at']}"
        )
    for r in result["timed"]:
        print(
            f"{r['options']:55s} time x {r['time_ratio']:.2f} ({r['lowest']:.2f} to {r['highest']:.2f}), "
            f"{r['peak_mib']:8.1f} MiB, output moved by {r['moved']:.1e}"
        )
    for r in result["decoded"]:
        print(
            f"tiles of {r['tile']} of {r['side']}, overlap {r['overlap']}: time x {r['time_ratio']:.2f}, memory x "
            f"{r['memory_ratio']:.2f}, difference at seams {r['seam_mean']:.2e} (max {r['seam_max']:.2e}), elsewhere "
            f"{r.get('elsewhere_mean', 0):.2e} (max {r.get('elsewhere_max', 0):.2e}), contrast {r['contrast']:.2f}"
        )
    for miss in result["misses"]:
        print("MISS " + miss)


if __name__ == "__main__":
    sys.exit(main())
