"""Video-VAE encode in channels-last memory against torch's default layout, same weights, in one run.

    OMP_NUM_THREADS=1 python benchmarks/vae_layout.py [--json] [--device cuda] [--side 256]

The two take turns; the ratio is the median over pairs of (default layout's time / channels-last's), so above 1
means that channels-last is faster. The report (section 6.2.3) has up to 7 on its GPUs; no bar here, as a CPU's ratio
says little.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time

import torch
from model_speed import randomize
from torch import Tensor

from stepvideo.models.config import VAEConfig
from stepvideo.models.video_vae import VideoVAE


def timed(encode: torch.nn.Module, x: Tensor) -> float:
    """Seconds of one call; on a CUDA device all of its work is waited for."""
    cuda = x.device.type == "cuda"
    if cuda:
        torch.cuda.synchronize()
    start = time.perf_counter()
    encode(x)
    if cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - start


@torch.no_grad()
def measure(cfg: VAEConfig, side: int, dtype: torch.dtype, device: str, repeats: int) -> dict[str, object]:
    vae = VideoVAE(cfg).eval()
    randomize(vae)
    vae = vae.to(device, dtype)
    x = torch.rand(1, 3, cfg.frame_len, side, side, generator=torch.Generator().manual_seed(0)).to(device, dtype)
    forms = {"default": x.contiguous(), "channels_last": x.contiguous(memory_format=torch.channels_last_3d)}
    answers = [vae.encoder(form).float() for form in forms.values()]
    error = float((answers[0] - answers[1]).square().mean().sqrt() / answers[0].square().mean().sqrt())
    pairs = [{name: timed(vae.encoder, form) for name, form in forms.items()} for _ in range(repeats)]
    return {
        "device": torch.cuda.get_device_name() if device == "cuda" else "cpu",
        "dtype": str(dtype).removeprefix("torch."),
        "shape": f"1 x {cfg.frame_len} x {side} x {side}, widths {cfg.enc_widths}",
        "ratio": round(statistics.median(p["default"] / p["channels_last"] for p in pairs), 3),
        **{f"{name}_ms": round(1e3 * statistics.median(p[name] for p in pairs), 1) for name in forms},
        "difference": float(f"{error:.1e}"),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="one JSON object a row")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", choices=("cpu", "cuda"))
    parser.add_argument("--side", type=int, default=0, help="pixels; default 256 on CUDA, 64 on a CPU")
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    cuda = args.device == "cuda"
    cfg = VAEConfig() if cuda else VAEConfig(enc_ch=16, dec_ch=64, num_groups=16)  # a CPU takes half the widths
    for dtype in (torch.bfloat16, torch.float32):
        row = measure(cfg, args.side or (256 if cuda else 64), dtype, args.device, args.repeats)
        print(json.dumps(row) if args.json else "  ".join(f"{k} {v}" for k, v in row.items()), flush=True)


if __name__ == "__main__":
    main()
