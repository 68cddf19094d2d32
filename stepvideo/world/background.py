"""Backgrounds of low saturation, some of which change slowly."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from stepvideo.world.config import RenderConfig

CHROMA = 0.10  # largest difference between the RGB channels of a background colour


@dataclass(frozen=True)
class Background:
    """Two pale or grey colours mixed by a pattern in [0, 1]."""

    kind: str
    drifts: bool
    rgb: tuple[tuple[float, ...], tuple[float, ...]]
    angle: float  # radians
    frequency: float  # periods a unit
    phase: float
    rate: float  # phase a frame, for drifting patterns
    seed: int  # of the noise fields


def _pale(rng: np.random.Generator, lightness: float) -> tuple[float, ...]:
    tint = rng.uniform(-CHROMA / 2, CHROMA / 2, 3)
    return tuple(float(c) for c in np.clip(lightness + tint, 0.02, 0.98))


def plan_background(rng: np.random.Generator, cfg: RenderConfig) -> Background:
    kind = str(rng.choice(list(cfg.backgrounds)))
    light = rng.uniform(0.15, 0.90)
    contrast = rng.uniform(0.12, 0.35) * (1 if light < 0.5 else -1)
    return Background(
        kind=kind,
        drifts=bool(rng.random() < cfg.drift) and kind != "plain",
        rgb=(_pale(rng, light), _pale(rng, light + contrast)),
        angle=float(rng.uniform(0, np.pi)),
        frequency=float(rng.uniform(2.0, 4.5)),
        phase=float(rng.uniform(0, 2 * np.pi)),
        rate=float(rng.uniform(0.02, 0.08) * rng.choice([-1, 1])),
        seed=int(rng.integers(2**31)),
    )


def _noise(rng: np.random.Generator, h: int, w: int) -> NDArray[np.float32]:
    """A soft random field in [0, 1]: a coarse grid enlarged, plus a weaker finer one."""
    coarse = rng.random((5, 5), np.float32)
    fine = rng.random((12, 12), np.float32)
    size = (w, h)
    field = cv2.resize(coarse, size, interpolation=cv2.INTER_CUBIC)
    field = field + 0.4 * (cv2.resize(fine, size, interpolation=cv2.INTER_CUBIC) - 0.5)
    return np.clip(field, 0, 1).astype(np.float32)


def draw_background(b: Background, n: int, h: int, w: int) -> NDArray[np.float32]:
    """float32 in [0, 1]: [1, h, w, 3] where nothing changes, else [n, h, w, 3]."""
    u = min(h, w)
    x = ((np.arange(w, dtype=np.float32) + 0.5) / u)[None, None, :]
    y = ((np.arange(h, dtype=np.float32) + 0.5) / u)[None, :, None]
    frames = np.arange(n if b.drifts else 1, dtype=np.float32)[:, None, None]
    phase = np.float32(b.phase) + np.float32(b.rate) * frames
    cos, sin = np.float32(np.cos(b.angle)), np.float32(np.sin(b.angle))
    wave = np.float32(2 * np.pi * b.frequency)
    if b.kind == "plain":
        mix = np.zeros((1, h, w), np.float32)
    elif b.kind == "gradient":
        turn = np.float32(b.angle) + (phase - np.float32(b.phase)) * np.float32(0.5)
        mix = np.clip(0.5 + (x - w / u / 2) * np.cos(turn) + (y - h / u / 2) * np.sin(turn), 0, 1)
    elif b.kind == "noise":
        rng = np.random.default_rng(b.seed)
        first, second = _noise(rng, h, w), _noise(rng, h, w)
        share = 0.5 + 0.5 * np.sin(phase)
        mix = first + share * (second - first)
    elif b.kind == "stripes":
        mix = 0.5 + 0.5 * np.tanh(2 * np.sin(wave * (x * cos + y * sin) + phase))
    else:
        mix = 0.5 + 0.5 * np.tanh(2.5 * np.sin(wave * x + phase) * np.sin(wave * y + phase))
    mix = np.broadcast_to(mix, (len(frames), h, w))[..., None].astype(np.float32)
    first_rgb, second_rgb = (np.array(c, np.float32) for c in b.rgb)
    return (first_rgb + mix * (second_rgb - first_rgb)).astype(np.float32, copy=False)
