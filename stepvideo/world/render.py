"""Attributes → frames: anti-aliased coloured shapes moving over pale or grey backgrounds.

Tensors: t frames, h and w pixels; lengths in units of u = min(h, w) unless a name says px.
Saturation separates: objects have a chroma (max − min of RGB) above 0.6, backgrounds below 0.1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stepvideo.errors import StepVideoError
from stepvideo.world.attributes import VECTOR, Attrs, is_held_out
from stepvideo.world.background import Background, draw_background, plan_background
from stepvideo.world.config import RenderConfig
from stepvideo.world.events import Event

RGB = {
    "red": (0.90, 0.10, 0.10),
    "yellow": (0.95, 0.85, 0.08),
    "green": (0.10, 0.70, 0.15),
    "cyan": (0.05, 0.80, 0.85),
    "blue": (0.12, 0.22, 0.92),
    "purple": (0.72, 0.15, 0.88),
}
RADIUS = {"small": 0.097, "large": 0.160}  # of the circle; the area ratio is 2.72
AREA = {"circle": 1.0, "square": 1.0, "triangle": 0.85}  # relative to the circle; two large triangles must fit abreast
MARGIN = 0.015
GAP = 1 / 12  # between two objects: 4 px at 48 px
WINDOW = 16  # steps between the first and last frame of a 17-frame window

_SIDE_TRIANGLE = np.sqrt(4 * np.pi / np.sqrt(3) * AREA["triangle"])  # side over circle radius

Frames = NDArray[np.uint8]


class NoRoom(StepVideoError):
    """The objects of a scene cannot keep apart from each other within the frame."""


@dataclass(frozen=True)
class Body:
    """One drawn object: attributes (count 1 of them), colour and centre (x, y) of its bounding box in each frame."""

    attrs: Attrs
    rgb: tuple[float, float, float]
    path_t2: NDArray[np.float64]


@dataclass(frozen=True)
class Scene:
    """Everything that determines the pixels of one clip."""

    attrs: tuple[Attrs, ...]
    bodies: tuple[Body, ...]
    background: Background
    speed: float  # displacement over a 17-frame window, of the first object; 0 for a still
    event: Event | None = None  # of a hard scene

    @property
    def pace(self) -> str:
        """slow | medium | fast, for captions."""
        return "slow" if self.speed < 0.27 else "fast" if self.speed > 0.33 else "medium"


def extent(shape: str, size: str) -> tuple[float, float]:
    """Half width and half height of the bounding box."""
    r = RADIUS[size]
    if shape == "circle":
        return r, r
    if shape == "square":
        half = r * np.sqrt(np.pi) / 2
        return half, half
    side = _SIDE_TRIANGLE * r
    return side / 2, side * np.sqrt(3) / 4


def coverage(shape: str, size: str, dx: NDArray, dy: NDArray, u: int) -> NDArray:
    """Anti-aliased coverage in [0, 1] at offsets (dx, dy) in units from the box centre; u pixels a unit."""
    ex, ey = extent(shape, size)
    if shape == "circle":
        d = np.sqrt(dx * dx + dy * dy) - np.float32(ex)
    elif shape == "square":
        d = np.maximum(np.abs(dx), np.abs(dy)) - np.float32(ex)
    else:
        s = np.float32(np.sqrt(3) / 2)
        # Apex at (0, -ey), base at y = +ey: the larger of the base's and the slanted sides' distances.
        d = np.maximum(dy - np.float32(ey), np.abs(dx) * s - (dy + np.float32(ey)) * np.float32(0.5))
    return np.clip(np.float32(0.5) - d * np.float32(u), 0, 1)


def bounds(cfg: RenderConfig) -> NDArray[np.float64]:
    """Width and height of the frame."""
    u = min(cfg.h, cfg.w)
    return np.array([cfg.w / u, cfg.h / u])


def _place(a: Attrs, rng: np.random.Generator, cfg: RenderConfig) -> tuple[list[NDArray[np.float64]], float]:
    """Paths [t, 2] of the `a.count` objects, all inside the frame, and their displacement over a window."""
    box = bounds(cfg)
    half = np.array(extent(a.shape, a.size))
    v = np.array(VECTOR[a.direction]) if a.direction else np.zeros(2)
    along = int(np.argmax(np.abs(v))) if a.direction else int(rng.integers(2))
    across = 1 - along

    speed = rng.uniform(cfg.speed_min, cfg.speed_max) if a.direction else 0.0
    room = box[along] - 2 * half[along] - 2 * MARGIN
    if cfg.frames > 1:
        speed = min(speed, room * WINDOW / (cfg.frames - 1))
    travel = speed * (cfg.frames - 1) / WINDOW

    free = box[across] - 2 * MARGIN - 2 * half[across] * a.count - GAP * (a.count - 1)
    cuts = np.sort(rng.uniform(0, free, a.count))
    lanes = MARGIN + half[across] + cuts + np.arange(a.count) * (2 * half[across] + GAP)
    slack = max(0.0, room - travel)  # a long clip's way is all the room, but for what rounding leaves
    first = rng.uniform(0, slack)
    starts = np.clip(first + rng.uniform(-0.08, 0.08, a.count), 0, slack) + MARGIN + half[along]

    time = np.arange(cfg.frames) / WINDOW * speed
    paths = []
    for lane, start in zip(lanes, starts, strict=True):
        p = np.empty((cfg.frames, 2))
        p[:, across] = lane
        sign = v[along] if a.direction else 1.0
        p[:, along] = start + time if sign > 0 else start + travel - time
        paths.append(p)
    return paths, speed


def _apart(bodies: Sequence[Body]) -> bool:
    """True if the bounding boxes of all objects stay `GAP` apart in every frame."""
    for i, p in enumerate(bodies):
        for q in bodies[:i]:
            reach = np.add(extent(p.attrs.shape, p.attrs.size), extent(q.attrs.shape, q.attrs.size)) + GAP
            if not (np.abs(p.path_t2 - q.path_t2) >= reach).any(axis=1).all():
                return False
    return True


def plan(
    attrs: Attrs | Sequence[Attrs], seed: int | Sequence[int], cfg: RenderConfig, *, allow_held_out: bool = False
) -> Scene:
    """Choose colours, paths and background.

    Args:
        attrs: one description, or several different ones of count 1 for a scene of several objects.
        seed: of `numpy.random.default_rng`; the same seed, attributes and config give the same scene.
        allow_held_out: for evaluation ground truth only.

    Raises:
        StepVideoError: a held-out combination without `allow_held_out`; as `NoRoom`, objects that do not fit.
    """
    group = (attrs,) if isinstance(attrs, Attrs) else tuple(attrs)
    held = [str(a) for a in group if is_held_out(a)]
    if held and not allow_held_out:
        raise StepVideoError(
            f"{', '.join(held)} is held out: nothing may be trained on it; "
            "take attributes.train_combinations(), or allow_held_out=True for evaluation ground truth"
        )
    if len(group) > 1 and any(a.count != 1 for a in group):
        raise StepVideoError("a scene of several objects takes descriptions of count 1 only")
    rng = np.random.default_rng(seed)
    background = plan_background(rng, cfg)
    for _ in range(200):
        bodies: list[Body] = []
        speed = 0.0
        for i, a in enumerate(group):
            rgb = np.clip(np.array(RGB[a.colour]) * rng.uniform(0.94, 1.04), 0, 1)
            paths, s = _place(a, rng, cfg)
            speed = s if i == 0 else speed
            bodies += [Body(a, (float(rgb[0]), float(rgb[1]), float(rgb[2])), p) for p in paths]
        if len(group) == 1 or _apart(bodies):
            return Scene(group, tuple(bodies), background, speed)
    raise NoRoom(f"no room for {', '.join(map(str, group))} in one frame of {cfg.w}×{cfg.h}; take smaller ones")


def draw(scene: Scene, cfg: RenderConfig) -> Frames:
    """Frames uint8 [t, h, w, 3] of a scene."""
    u = min(cfg.h, cfg.w)
    n = len(scene.bodies[0].path_t2) if scene.bodies else cfg.frames
    x = ((np.arange(cfg.w) + 0.5) / u).astype(np.float32)
    y = ((np.arange(cfg.h) + 0.5) / u).astype(np.float32)
    ground = draw_background(scene.background, n, cfg.h, cfg.w)
    out = np.empty((n, cfg.h, cfg.w, 3), np.float32)
    out[:] = ground
    for b in scene.bodies:
        # Only the rows and columns that the object ever touches: most of a frame is background.
        half = np.array(extent(b.attrs.shape, b.attrs.size)) + 1.5 / u
        lo, hi = b.path_t2.min(axis=0) - half, b.path_t2.max(axis=0) + half
        x0, y0 = (max(0, int(c * u)) for c in lo)
        x1, y1 = (int(c * u) + 1 for c in hi)
        dx = x[None, None, x0:x1] - b.path_t2[:, 0, None, None].astype(np.float32)
        dy = y[None, y0:y1, None] - b.path_t2[:, 1, None, None].astype(np.float32)
        alpha = coverage(b.attrs.shape, b.attrs.size, dx, dy, u)[..., None]
        part = out[:, y0:y1, x0:x1]
        part += alpha * (np.array(b.rgb, np.float32) - part)
    out *= 255
    out += 0.5
    return out.astype(np.uint8)


def render(
    attrs: Attrs | Sequence[Attrs], seed: int | Sequence[int], cfg: RenderConfig, *, allow_held_out: bool = False
) -> Frames:
    """A clip uint8 [t, h, w, 3]; `plan` then `draw`. Raises as `plan`."""
    return draw(plan(attrs, seed, cfg, allow_held_out=allow_held_out), cfg)
