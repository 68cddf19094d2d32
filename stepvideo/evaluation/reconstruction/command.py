"""`stepvideo evaluate reconstruction`: what a VAE gives back of videos, under a named protocol. Light until called."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stepvideo.errors import ConfigError
from stepvideo.evaluation.reconstruction.protocols import MODE, PROTOCOLS, SAMPLE, protocol

if TYPE_CHECKING:
    from stepvideo.evaluation.reconstruction.measure import Instruments

HELP = "PSNR, SSIM, LPIPS and rFVD of what a VAE gives back of videos, under a named protocol"
SUFFIXES = (".mp4", ".mkv", ".webm", ".mov", ".avi")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "videos", type=Path, nargs="+", metavar="VIDEO|DIR", help="files, or folders with their subfolders"
    )
    parser.add_argument("--vae", required=True, metavar="REF", help="a folder with vae/, or an artifact of --store")
    parser.add_argument("--store", type=Path, metavar="DIR", help="where an artifact is looked for")
    parser.add_argument("--protocol", required=True, choices=PROTOCOLS, help="how it is measured")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE.json")
    parser.add_argument("--frames", type=int, metavar="INT", help="instead of the protocol's; its name then says so")
    parser.add_argument("--size", type=int, nargs=2, metavar=("H", "W"), help="the same")
    parser.add_argument("--posterior", choices=(MODE, SAMPLE), help="the same (mode: the mean of the latents)")
    parser.add_argument("--precision", choices=("fp32", "bf16"), help="the same, of the VAE")
    parser.add_argument("--seed", type=int, default=0, metavar="INT", help="of --posterior sample (0)")
    parser.add_argument(
        "--lpips", type=Path, nargs=2, metavar=("TRUNK", "HEADS"), help="torchvision's network and LPIPS v0.1's heads"
    )
    parser.add_argument("--i3d", type=Path, metavar="FILE.pt", help="I3D as TorchScript, for rFVD; runs as a program")
    parser.add_argument("--i3d-sha256", metavar="HEX", help="the sum of the I3D that you trust")
    parser.add_argument("--device", default="auto", metavar="NAME", help="auto, cpu or cuda")
    parser.add_argument("--json", action="store_true", help="print the result instead of a table")
    parser.add_argument(
        "--check", action="store_true", help="fail if clips were left out or the protocol asks for more"
    )


def call(args: argparse.Namespace) -> int:
    """Raises StepVideoError; every message names the file or the option."""
    if (args.i3d is None) != (args.i3d_sha256 is None):
        raise ConfigError("--i3d is a program: give its --i3d-sha256 as well, and the one only with the other")
    height, width = args.size or (None, None)
    wanted = protocol(args.protocol).changed(
        frames=args.frames, height=height, width=width, posterior=args.posterior, precision=args.precision
    )
    if wanted.frames < 1 or min(wanted.height, wanted.width) < 0:
        raise ConfigError(f"--frames {wanted.frames} --size {wanted.height} {wanted.width}: give 1 or more")
    videos = _videos(args.videos)

    import torch

    from stepvideo.diffusion.pipeline import best_device
    from stepvideo.evaluation.reconstruction.measure import measure
    from stepvideo.models.checkpoints import load_vae
    from stepvideo.storage import sampled_digest, write_json

    folder, name = _folder(args.vae, args.store)
    device = best_device(args.device)
    vae = load_vae(folder, device, torch.bfloat16 if wanted.precision == "bf16" else torch.float32).eval()
    instruments = _instruments(args, wanted, device.type)
    identity = {"name": name, "digest": sampled_digest([folder / "vae"]), "device": device.type}
    journal = args.out.with_name(args.out.name + ".rows")
    found = measure(
        videos, vae, wanted, instruments, journal, identity=identity, seed=args.seed, progress=_progress(args.json)
    )
    write_json(args.out, found)
    journal.unlink()
    print(json.dumps(found) if args.json else _table(found, args.out))
    return int(args.check and found["partial"])


def _videos(given: list[Path]) -> list[tuple[str, Path]]:
    """Name → file, sorted by name."""
    found: dict[str, Path] = {}
    for place in given:
        files = [place] if place.is_file() else [p for p in place.rglob("*") if p.suffix.lower() in SUFFIXES]
        if not files:
            raise ConfigError(f"{place} is no video, and no folder with videos ({', '.join(SUFFIXES)})")
        for path in files:
            name = path.name if path == place else path.relative_to(place).as_posix()
            if name in found:
                raise ConfigError(f"{path} and {found[name]} have the same name {name}; rename one")
            found[name] = path
    return sorted(found.items())


def _folder(ref: str, store: Path | None) -> tuple[Path, str]:
    """The folder that `vae/` lies in, and what to call it."""
    place = Path(ref)
    for folder in (place, place / "out"):
        if (folder / "vae").is_dir():
            return folder, place.resolve().name
    if store is None:
        raise ConfigError(f"--vae {ref} holds no vae/; give a folder as released, or --store and an artifact")
    from stepvideo.artifact import Store

    artifact = Store(store).resolve(ref)
    if not (artifact.out / "vae").is_dir():
        raise ConfigError(f"--vae {ref}: the artifact {artifact.out} holds no vae/; give one of a VAE's stage")
    return artifact.out, f"{artifact.manifest['stage']}/{artifact.manifest['key'][:8]}"


def _instruments(args: argparse.Namespace, wanted: Any, device: str) -> Instruments:
    from stepvideo.evaluation.reconstruction.fvd import I3D
    from stepvideo.evaluation.reconstruction.lpips import LPIPS
    from stepvideo.evaluation.reconstruction.measure import Instruments
    from stepvideo.storage import sha256_file

    lpips = LPIPS(wanted.lpips, *args.lpips, spatial=wanted.lpips_spatial, device=device) if args.lpips else None
    i3d = I3D(args.i3d, args.i3d_sha256, device) if args.i3d else None
    files = {"lpips_trunk": args.lpips and args.lpips[0], "lpips_heads": args.lpips and args.lpips[1], "i3d": args.i3d}
    return Instruments(lpips, i3d, {name: sha256_file(path) for name, path in files.items() if path})


def _progress(quiet: bool) -> Any:
    import sys

    def told(done: int, total: int) -> None:
        if not quiet and sys.stderr.isatty():
            print(f"\r{done} of {total} clips", end="\n" if done == total else "", file=sys.stderr, flush=True)

    return told


def _table(found: dict[str, Any], out: Path) -> str:
    lines = [f"{found['protocol']['name']}, posterior {found['protocol']['posterior']}, {found['n']} clips"]
    for name, mean in found["means"].items():
        if mean is None:
            lines.append(f"  {name:5} none: {found['reasons'][name]}")
        else:
            low, high = mean["low"], mean["high"]
            interval = found["reasons"][name] if low is None else f"[{low:.4f}, {high:.4f}]"
            lines.append(f"  {name:5} {mean['value']:.4f}  {interval}  {mean['direction']} is better")
    lines.append(f"  {found['numbers_in_per_number_out']:.1f} numbers of video a number of latents")
    if found["partial"]:
        short = sum("left_out" in row for row in found["videos"])
        lines.append(
            f"partial: {short} clips left out; the protocol asks for {found['protocol']['clips'] or 'all given'}"
        )
    lines.append(f"{out}; next: the same with another --vae, to compare under this protocol only")
    return "\n".join(lines)
