"""Videos through a VAE and back, compared under a protocol: a row a clip, means with intervals by clip.

Every finished row is kept in a journal, so that a killed measurement goes on, to the same result.

Legend: T frames, H W sides in pixels, 3 RGB.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stepvideo.data.frames import cover
from stepvideo.data.video_io import iter_frames
from stepvideo.errors import ArtifactError
from stepvideo.evaluation.jackknife import mean_interval
from stepvideo.evaluation.metrics.base import HIGHER, LOWER
from stepvideo.evaluation.reconstruction.fvd import I3D, LEAST, LEAST_FRAMES, frechet_distance
from stepvideo.evaluation.reconstruction.lpips import LPIPS
from stepvideo.evaluation.reconstruction.pixels import psnr, ssim
from stepvideo.evaluation.reconstruction.protocols import SAMPLE, Protocol
from stepvideo.models.config import VAEConfig
from stepvideo.models.video_vae import VideoVAE
from stepvideo.storage import sha256_file, write_atomic

DIRECTIONS = {"psnr": HIGHER, "ssim": HIGHER, "lpips": LOWER, "rfvd": LOWER}
FEATURES = "features"  # of a row: I3D's, of the video and of its reconstruction
BATCH = 8  # frames that LPIPS compares at a time

Row = dict[str, Any]


@dataclass(frozen=True)
class Instruments:
    """The networks that some metrics need; None with what to tell instead."""

    lpips: LPIPS | None = None
    i3d: I3D | None = None
    digests: Mapping[str, str] = field(default_factory=dict)  # SHA-256 of their files

    def reasons(self) -> dict[str, str]:
        told = {
            "lpips": "no weights were given (--lpips TRUNK HEADS)",
            "rfvd": "no I3D was given (--i3d, --i3d-sha256)",
        }
        return {k: v for k, v in told.items() if getattr(self, "i3d" if k == "rfvd" else k) is None}


def measure(
    videos: Sequence[tuple[str, Path]],
    vae: VideoVAE,
    protocol: Protocol,
    instruments: Instruments,
    journal: Path,
    *,
    identity: dict[str, Any],
    seed: int = 0,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Any]:
    """The content of a result file.

    Args:
        videos: name in the result → file.
        journal: rows that are done; a file of other settings is begun anew.
        identity: of the VAE, for the result.

    Raises:
        ArtifactError: a file is no video, or no clip is left.
    """
    settings = {"protocol": protocol.as_dict(), "vae": identity, "seed": seed, "weights": dict(instruments.digests)}
    book = _Journal(journal, settings)
    rows: list[Row] = []
    for i, (name, path) in enumerate(videos):
        rows.append(book.row(name, sha256_file(path), lambda p=path: _row(p, vae, protocol, instruments, seed)))
        progress(i + 1, len(videos))
    return {"kind": "reconstruction", **settings, **_summary(rows, protocol, instruments.reasons())}


def reconstruct(vae: VideoVAE, video_THW3: np.ndarray, protocol: Protocol, seed: int) -> tuple[np.ndarray, int]:
    """uint8 [T, H, W, 3] through the VAE and back, float32 in [0, 1]; and the numbers that its latents have.

    What the VAE cannot code is padded by repeating the last frame, row and column, and cut off again.
    """
    place = next(vae.parameters())
    padded = np.pad(video_THW3, [(0, n) for n in padding(vae.cfg, video_THW3.shape)] + [(0, 0)], mode="edge")
    x = torch.from_numpy(padded).permute(0, 3, 1, 2)[None].to(place.device).float() / 127.5 - 1
    with torch.no_grad():
        noise = torch.Generator().manual_seed(seed) if protocol.posterior == SAMPLE else None
        z = vae.encode(x.to(place.dtype), noise, sample=protocol.posterior == SAMPLE)
        y = vae.decode(z)[0].float().clamp(-1, 1).add(1).div(2)
    frames, height, width, _ = video_THW3.shape
    back = y.permute(0, 2, 3, 1)[:frames, :height, :width].cpu().numpy()
    return (np.rint(back * 255) / 255).astype(np.float32) if protocol.eight_bit else back, z.numel()


def padding(cfg: VAEConfig, shape: Sequence[int]) -> tuple[int, int, int]:
    """Frames, rows and columns that a video [T, H, W, …] lacks to be coded without loss of frames."""
    frames, height, width = shape[:3]
    missing = -frames % cfg.frame_len if cfg.frame_len else (1 - frames) % cfg.temporal_factor
    return missing, -height % cfg.spatial_factor, -width % cfg.spatial_factor


def _row(path: Path, vae: VideoVAE, protocol: Protocol, instruments: Instruments, seed: int) -> Row:
    frames = _first(path, protocol)
    if len(frames) < protocol.frames and not protocol.at_most:
        return {"left_out": f"{len(frames)} frames; the protocol asks for {protocol.frames}"}
    video = np.stack(frames)
    if protocol.height:
        video = cover(video, protocol.height, protocol.width)
    y, numbers = reconstruct(vae, video, protocol, seed)
    x = video.astype(np.float32) / 255
    row: Row = {"frames": len(x), "height": x.shape[1], "width": x.shape[2], "latent_numbers": numbers}
    if any(missing := padding(vae.cfg, x.shape)):
        row["padded"] = list(missing)
    row |= {"psnr": psnr(x, y, protocol.psnr), "ssim": ssim(x, y, protocol.ssim)}
    device = next(vae.parameters()).device
    a, b = (torch.from_numpy(np.ascontiguousarray(v.transpose(0, 3, 1, 2))).to(device) for v in (x, y))
    if instruments.lpips:
        row["lpips"] = _lpips(instruments.lpips, a, b)
    if instruments.i3d and len(x) >= LEAST_FRAMES:
        row[FEATURES] = [instruments.i3d(v).tolist() for v in (a, b)]
    return row


def _first(path: Path, protocol: Protocol) -> list[np.ndarray]:
    """The first frames of a video, as many as the protocol takes."""
    frames = []
    for frame in iter_frames(path):
        frames.append(frame)
        if len(frames) == protocol.frames:
            break
    return frames


def _lpips(network: LPIPS, a: Tensor, b: Tensor) -> float:
    parts = [network(x * 2 - 1, y * 2 - 1) for x, y in zip(a.split(BATCH), b.split(BATCH))]
    return float(torch.cat(parts).double().mean())


def _summary(rows: list[Row], protocol: Protocol, reasons: dict[str, str]) -> dict[str, Any]:
    done = [r for r in rows if "left_out" not in r]
    if not done:
        raise ArtifactError(f"no clip is left of {len(rows)}: {rows[0]['left_out'] if rows else 'none was given'}")
    means: dict[str, Any] = dict.fromkeys(DIRECTIONS)
    for name in ("psnr", "ssim", "lpips"):
        if name not in reasons:
            x = [r[name] for r in done]
            value, low, high = mean_interval(x, range(len(x))) if len(x) > 1 else (x[0], None, None)
            reasons |= {name: "no interval: one clip"} if low is None else {}
            means[name] = {"value": value, "low": low, "high": high, "n": len(x), "direction": DIRECTIONS[name]}
    features = [r.pop(FEATURES) for r in done if FEATURES in r]
    if "rfvd" not in reasons and len(features) < LEAST:
        reasons["rfvd"] = f"{len(features)} clips of {LEAST_FRAMES} frames or more; a set needs {LEAST}"
    if "rfvd" not in reasons:
        x, y = np.moveaxis(np.array(features), 1, 0)
        # of the whole set: it is no mean over clips, and a bootstrap of it is biased
        reasons["rfvd"] = "no interval: one distance of two sets"
        value = frechet_distance(x, y)
        means["rfvd"] = {"value": value, "low": None, "high": None, "n": len(features), "direction": LOWER}
    pixels = sum(3 * r["frames"] * r["height"] * r["width"] for r in done)
    return {
        "n": len(done),
        "partial": len(done) < len(rows) or len(done) < protocol.clips,
        "numbers_in_per_number_out": pixels / sum(r["latent_numbers"] for r in done),
        "means": means,
        "intervals": "95 % by clip: Student's t",
        "reasons": reasons,
        "videos": rows,
    }


class _Journal:
    """Finished rows, a line each, behind a line with the digest of the settings."""

    def __init__(self, path: Path, settings: dict[str, Any]) -> None:
        head = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
        self.path = path
        self.rows: dict[tuple[str, str], Row] = {}
        lines = path.read_text(encoding="utf-8").split("\n") if path.is_file() else [""]
        whole = lines[:-1] if lines[0] == head else [head]  # a killed writer leaves half a line behind the last one
        for row in map(json.loads, whole[1:]):
            self.rows[row["video"], row["sha256"]] = row
        write_atomic(path, "\n".join([*whole, ""]))

    def row(self, video: str, sha256: str, make: Callable[[], Row]) -> Row:
        """The row of a video, from the file or made and written to it."""
        if (video, sha256) not in self.rows:
            self.rows[video, sha256] = {"video": video, "sha256": sha256} | make()
            with self.path.open("a", encoding="utf-8") as f:
                f.write(json.dumps(self.rows[video, sha256], sort_keys=True) + "\n")
        return self.rows[video, sha256]
