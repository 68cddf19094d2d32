"""Buckets: videos of a length and a size that train together (report section 8, Bucketization). Torch-free."""

from __future__ import annotations

from collections.abc import Sequence
from math import log
from typing import NamedTuple

from stepvideo.data.balance_config import BucketConfig
from stepvideo.emulator.flops import block_flops, video_tokens
from stepvideo.models.config import DiTConfig, VAEConfig


class Bucket(NamedTuple):
    """What its clips are cut and resized to; `str(bucket)` is its name, "17x64x64"."""

    frames: int
    height: int  # pixels
    width: int

    def __str__(self) -> str:
        return f"{self.frames}x{self.height}x{self.width}"

    @classmethod
    def parse(cls, name: str) -> Bucket:
        """The bucket of that name.

        Raises:
            ValueError: it is none.
        """
        parts = name.split("x")
        if len(parts) != 3 or not all(p.isdecimal() and int(p) > 0 for p in parts):
            raise ValueError(f"{name!r} is no bucket; its name is FRAMESxHEIGHTxWIDTH in pixels, for example 17x64x64")
        return cls(*map(int, parts))


def buckets(cfg: BucketConfig) -> list[Bucket]:
    """Every length with every size, longest first."""
    return [Bucket.parse(f"{n}x{size}") for n in sorted(cfg.lengths, reverse=True) for size in cfg.sizes]


def bucket_of(frames: int, height: int, width: int, choice: Sequence[Bucket]) -> Bucket:
    """The bucket of a clip: the longest that it fills, then the one of the closest height-to-width ratio.

    Ratios are compared as logarithms, so that landscape and portrait are alike; of equal ones the first given counts.

    Raises:
        ValueError: the clip is shorter than every bucket, or has no size.
    """
    if min(height, width) < 1:
        raise ValueError(f"a clip of {frames} frames of {height}x{width} pixels has no picture")
    length = max((b.frames for b in choice if b.frames <= frames), default=0)
    if not length:
        shortest = min((b.frames for b in choice), default=None)
        fix = f"add a length of {frames} or less, or leave such clips out" if shortest else "give a length and a size"
        raise ValueError(f"a clip of {frames} frames fits no bucket (the shortest has {shortest} frames): {fix}")
    ratio = log(height / width)
    return min((b for b in choice if b.frames == length), key=lambda b: abs(log(b.height / b.width) - ratio))


def sample_tokens(bucket: Bucket, dit: DiTConfig, vae: VAEConfig) -> int:
    """Video tokens of one sample.

    Raises:
        ValueError: the VAE cannot code that length, or the size is no whole number of tokens.
    """
    return video_tokens(dit, *_latent(bucket, dit, vae))


def sample_tflops(bucket: Bucket, dit: DiTConfig, vae: VAEConfig, text_len: int) -> float:
    """Training cost of one sample in TFLOP: forward and backward of the blocks, as in the report's Table 3.

    What is left out (embedders, output layer) is below 0.1 % of the 30B model's. Raises like `sample_tokens`.
    """
    return 3 * block_flops(dit, *_latent(bucket, dit, vae), text_len) / 1e12


def _latent(bucket: Bucket, dit: DiTConfig, vae: VAEConfig) -> tuple[int, int, int]:
    unit = vae.spatial_factor * dit.patch_size
    if bucket.height % unit or bucket.width % unit:
        raise ValueError(f"bucket {bucket}: height and width must be multiples of {unit} pixels, a token's side")
    return vae.num_latents(bucket.frames), bucket.height // vae.spatial_factor, bucket.width // vae.spatial_factor
