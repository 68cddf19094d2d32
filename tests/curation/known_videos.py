"""Videos with known truth. Every frame carries its number in a strip of black and white blocks, so that a test can tell
which source frame it is looking at after cutting, cropping and encoding."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np

BITS, BLOCK = 10, 6


def shot(seed: int, frames: int, start: int = 0, height: int = 64, width: int = 64) -> np.ndarray:
    """One shot: a coarse texture that moves a pixel a frame, uint8 [T, H, W, 3]; frames are numbered from `start`."""
    rng = np.random.default_rng(seed)
    big = rng.integers(60, 256, (12, 12, 3)).astype(np.uint8)
    big = big.repeat(-(-height // 8), 0).repeat(-(-width // 8), 1)
    video = np.stack([np.roll(big, i, axis=1)[:height, :width] for i in range(frames)])
    for i, frame in enumerate(video):
        for bit in range(BITS):
            frame[:BLOCK, bit * BLOCK : (bit + 1) * BLOCK] = 255 if (start + i) >> bit & 1 else 0
    return video


def numbers(video: np.ndarray) -> list[int]:
    """The frame numbers that `shot` wrote, read from [T, H, W, 3]."""
    strip = video[:, 2 : BLOCK - 2, : BITS * BLOCK].mean(axis=(1, 3)).reshape(len(video), BITS, BLOCK)
    return [int(sum((on > 127) << bit for bit, on in enumerate(bits))) for bits in strip[:, :, 2:-2].mean(axis=2)]


def montage(lengths: list[int], height: int = 64, width: int = 64) -> np.ndarray:
    """Shots of the given lengths in a row, numbered through."""
    parts, start = [], 0
    for seed, n in enumerate(lengths):
        parts.append(shot(seed, n, start, height, width))
        start += n
    return np.concatenate(parts)


def encode(
    path: Path,
    video: np.ndarray,
    codec: str = "libx264",
    form: str = "mp4",
    pix_fmt: str = "yuv420p",
    times: list[int] | None = None,
    options: dict[str, str] | None = None,
) -> Path:
    """Write a video at 24 fps without the code under test; `times` are presentation times in 1/24 s, for VFR."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w", format=form, options=options or {}) as container:
        stream = container.add_stream(codec, rate=24)
        stream.height, stream.width = video.shape[1:3]
        stream.pix_fmt = pix_fmt
        stream.options = {"crf": "10", "g": "12"}
        stream.codec_context.thread_count = 1
        for i, frame in enumerate(video):
            picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
            picture.pts, picture.time_base = (times[i] if times else i), Fraction(1, 24)
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))
    return path
