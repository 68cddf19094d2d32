"""DiT forward, VAE encode and decode against a plain PyTorch transcription with the same weights, in one run.

    OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE python benchmarks/model_speed.py [--json] [--check] [--only dit]

The two take turns; a ratio is the median over pairs of (our time / the transcription's), so it holds on a shared
machine; with one thread it is the processor's time, else the clock's. Outputs must agree: in float32 to rounding, in
bf16 ours must be as near to float32 as the transcription is. `--check` exits 1 when a ratio exceeds 1 + MARGIN, which
is how far such ratios scatter when both sides are the same network; that is measured in the same run, as "same".
"channels-last" is our encoder in channels-last memory against ours in torch's default memory.
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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from plain_dit import PlainDiT
from plain_vae import PlainVAE
from torch import Tensor

from stepvideo.models.config import DiTConfig, VAEConfig
from stepvideo.models.dit import DiT
from stepvideo.models.video_vae import VideoVAE

HERE = Path(__file__).parent
MARGIN = 0.03
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
HALVED: dict[str, Any] = dict(enc_ch=16, dec_ch=64, num_groups=16)  # the released widths, halved
MICRO: dict[str, Any] = dict(
    enc_ch=8, enc_ch_mult=[1, 2, 4, 6], dec_ch=8, dec_ch_mult=[1, 2, 4, 6], num_res_blocks=1, num_groups=1
)

Call = Callable[[], Tensor]
Build = Callable[[torch.dtype], tuple[Call, Call]]


@dataclass
class Case:
    """Two ways to the same output; `build(dtype)` gives (ours, plain)."""

    name: str
    shape: str
    build: Build
    repeats: int
    bar: bool = True  # whether `--check` looks at its ratio


def randomize(net: torch.nn.Module) -> None:
    """Seeded weights, of which none is zero."""
    draw = torch.Generator().manual_seed(0)
    for name, p in net.named_parameters():
        scale = 0.1 if p.ndim == 1 else p.shape[1:].numel() ** -0.5
        p.data.copy_(torch.randn(p.shape, generator=draw) * scale + ("norm" in name and name.endswith("weight")))


def dit_calls(cfg: DiTConfig, batch: int, grid: tuple[int, int, int], text: tuple[int, int]) -> Build:
    def build(dtype: torch.dtype) -> tuple[Call, Call]:
        ours, plain = DiT(cfg).eval(), PlainDiT(cfg).eval()
        randomize(ours)
        plain.load_state_dict(ours.state_dict())
        ours, plain = ours.to(dtype), plain.to(dtype)
        draw, (f, h, w), (clip, llm) = torch.Generator().manual_seed(1), grid, text
        mask = (torch.arange(clip + llm) < clip + torch.linspace(llm // 4, llm, batch)[:, None]).long()
        a = (
            torch.randn(batch, f, cfg.in_channels, h, w, generator=draw),
            torch.randn(batch, llm, cfg.caption_channels[0], generator=draw),
            torch.randn(batch, clip, cfg.caption_channels[1], generator=draw),
            torch.rand(batch, generator=draw),
            mask,
        )
        return lambda: ours(*a), lambda: plain(*a)

    return build


def vae_pair(cfg: VAEConfig, dtype: torch.dtype) -> tuple[VideoVAE, PlainVAE]:
    ours, plain = VideoVAE(cfg).eval(), PlainVAE(cfg).eval()
    randomize(ours)
    plain.load_state_dict(ours.state_dict())
    return ours.to(dtype), plain.to(dtype)


def encode_calls(cfg: VAEConfig, batch: int, side: int, layouts: bool = False) -> Build:
    """With `layouts`, ours in channels-last memory against ours in torch's default memory."""

    def build(dtype: torch.dtype) -> tuple[Call, Call]:
        ours, plain = vae_pair(cfg, dtype)
        x = torch.rand(batch, 17, 3, side, side, generator=torch.Generator().manual_seed(1)).to(dtype) * 2 - 1
        if layouts:
            return lambda: ours.encode_moments(x), lambda: ours.encoder(x.transpose(1, 2).contiguous()).transpose(1, 2)
        return lambda: ours.encode_moments(x), lambda: plain.encode_moments(x)

    return build


def decode_calls(cfg: VAEConfig, batch: int, side: int, same: bool = False) -> Build:
    def build(dtype: torch.dtype) -> tuple[Call, Call]:
        ours, plain = vae_pair(cfg, dtype)
        z = torch.randn(batch, 3, cfg.z_channels, side // 16, side // 16, generator=torch.Generator().manual_seed(1))
        z = z.to(dtype)
        return lambda: ours.decode(z), lambda: (ours if same else plain).decode(z)

    return build


def cases() -> list[Case]:
    small_dit = DiTConfig(4, 32, 6, 32, 32, caption_channels=[96, 96])
    mid_dit = DiTConfig(8, 64, 8, 64, 64, caption_channels=[512, 256])
    small_vae, mid_vae = VAEConfig(z_channels=32, dual_path_ch=128, **MICRO), VAEConfig(**HALVED)
    small, mid = "2 x 17 x 64 x 64, micro", "1 x 17 x {0} x {0}, released widths / 2"
    return [
        Case("dit small", "16 x 48 tokens, micro", dit_calls(small_dit, 16, (3, 4, 4), (32, 48)), 40),
        Case("dit mid", "1 x 1152 tokens, width 512, 8 layers", dit_calls(mid_dit, 1, (6, 12, 16), (77, 128)), 9),
        Case("vae encode small", small, encode_calls(small_vae, 2, 64), 20),
        Case("vae decode small", small, decode_calls(small_vae, 2, 64), 20),
        Case("vae encode mid", mid.format(128), encode_calls(mid_vae, 1, 128), 3),
        Case("vae decode mid", mid.format(64), decode_calls(mid_vae, 1, 64), 5),
        Case("vae decode large", mid.format(128), decode_calls(mid_vae, 1, 128), 2),
        Case("channels-last small", small, encode_calls(small_vae, 2, 64, layouts=True), 20, bar=False),
        Case("channels-last mid", mid.format(64), encode_calls(mid_vae, 1, 64, layouts=True), 5, bar=False),
        Case("same", "vae decode small against itself", decode_calls(small_vae, 2, 64, same=True), 20, bar=False),
    ]


def timed(call: Call) -> float:
    clock = time.thread_time if torch.get_num_threads() == 1 else time.perf_counter
    start = clock()
    call()
    return clock() - start


def measure(case: Case, dtype: str, exact: Tensor, repeats: int) -> dict[str, Any]:
    """Ratio, medians and the errors against `exact`, the transcription's float32 output."""
    ours, plain = case.build(DTYPES[dtype])
    errors = [
        float((call().float() - exact).square().mean().sqrt() / exact.square().mean().sqrt()) for call in (ours, plain)
    ]
    pairs = []
    for i in range(repeats):
        order = [ours, plain] if i % 2 else [plain, ours]
        times = [timed(call) for call in order]
        pairs.append(times if i % 2 else times[::-1])
    ratios = sorted(a / b for a, b in pairs)
    return {
        "case": case.name,
        "shape": case.shape,
        "dtype": dtype,
        "ratio": round(statistics.median(ratios), 3),
        "ratio_quartiles": [round(q, 3) for q in statistics.quantiles(ratios, n=4, method="inclusive")[::2]],
        "ours_ms": round(1e3 * statistics.median(a for a, _ in pairs), 2),
        "plain_ms": round(1e3 * statistics.median(b for _, b in pairs), 2),
        "error": float(f"{errors[0]:.1e}"),
        "plain_error": float(f"{errors[1]:.1e}"),
        "repeats": repeats,
        "bar": case.bar,
    }


def faults(row: dict[str, Any]) -> list[str]:
    """What a row misses; the errors are those of the outputs, relative root mean square."""
    name, found = f"{row['case']} {row['dtype']}", []
    if row["error"] > (1e-5 if row["dtype"] == "fp32" else 1.2 * row["plain_error"]):
        found.append(f"{name}: error {row['error']} (transcription {row['plain_error']})")
    if row["bar"] and row["ratio"] > 1 + MARGIN:
        found.append(f"{name}: {row['ratio']} times the transcription's time; at most {1 + MARGIN} is asked")
    return found


def _git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=HERE, capture_output=True, text=True, check=False).stdout.strip()


def machine() -> dict[str, Any]:
    info = Path("/proc/cpuinfo")
    models = [ln.partition(":")[2].strip() for ln in info.read_text().splitlines() if ln.startswith("model name")]
    commit = _git("rev-parse", "--short", "HEAD")
    changed = "-dirty" if _git("status", "--porcelain", "--", "../stepvideo/models", "*.py") else ""
    return {
        "date": time.strftime("%Y-%m-%d"),
        "commit": commit + changed,
        "cpu": models[0] if models else platform.processor(),
        "cores": len(models),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "margin": MARGIN,
    }


@torch.no_grad()
def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object in place of a table")
    parser.add_argument("--check", action="store_true", help="exit 1 where an output or a ratio misses its bar")
    parser.add_argument("--only", default="", help="cases whose name begins so")
    parser.add_argument("--repeats", type=int, default=0, help="pairs for each case (default: by its size)")
    args = parser.parse_args()
    where, rows = machine(), []
    chosen = [c for c in cases() if c.name.startswith(args.only)]
    if not chosen:
        parser.error(f"--only {args.only}: no case begins so; there are {', '.join(c.name for c in cases())}")
    for case in chosen:
        exact = case.build(torch.float32)[1]()
        for dtype in DTYPES:
            row = measure(case, dtype, exact, args.repeats or case.repeats)
            rows.append(row)
            if not args.json:
                print(
                    f"{row['case']:28}{dtype:6}ratio {row['ratio']:.3f}  [{row['ratio_quartiles'][0]:.3f}, "
                    f"{row['ratio_quartiles'][1]:.3f}]  {row['ours_ms']:9.2f} / {row['plain_ms']:9.2f} ms  "
                    f"error {row['error']:.1e} / {row['plain_error']:.1e}"
                )
    if args.json:
        print(json.dumps({**where, "rows": rows}, indent=1))
    found = [fault for row in rows for fault in faults(row)]
    for fault in found:
        print(fault, file=sys.stderr)
    return int(args.check and bool(found))


if __name__ == "__main__":
    sys.exit(main())
