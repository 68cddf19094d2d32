"""Events → scenes for `world.render.draw`: one object whose motion is known exactly."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cache

import numpy as np

from stepvideo.errors import StepVideoError
from stepvideo.world.attributes import COLOURS, SHAPES, SIZES, VECTOR, Attrs, is_held_out
from stepvideo.world.background import plan_background
from stepvideo.world.config import RenderConfig
from stepvideo.world.events import BOUNCE, FALL, Event, Fall, Motion, Turn, all_events
from stepvideo.world.render import MARGIN, RGB, WINDOW, Body, Frames, Scene, bounds, draw, extent

MIN_FRAMES = 9  # each of two movements needs a few
TURN = (0.42, 0.58)  # of the clip: both movements are in every window of two thirds of it
LEG = (0.26, 0.38)  # length of a movement; lowered where the frame has no room
DROP = (0.75, 1.0)  # length of a fall, as a share of the room


def objects() -> tuple[Attrs, ...]:
    """The 36 objects that events happen to, of count one and with no direction of their own."""
    return tuple(Attrs(c, s, None, size, 1) for c in COLOURS for s in SHAPES for size in SIZES)


def may_be_trained(attrs: Attrs, event: Event) -> bool:
    """False if moving so, the object would show a held-out combination."""
    return not any(is_held_out(replace(attrs, direction=d)) for d in event.directions)


@cache
def trainable() -> tuple[tuple[Attrs, Event], ...]:
    """All pairs of an object and an event that training may see, in a fixed order."""
    return tuple((a, e) for a in objects() for e in all_events() if may_be_trained(a, e))


def motion(attrs: Attrs, event: Event, rng: np.random.Generator, cfg: RenderConfig) -> Motion:
    """A motion of the event that keeps the whole object inside the frame from the first frame to the last."""
    box, half = bounds(cfg), np.array(extent(attrs.shape, attrs.size))
    low, high = half + MARGIN, box - half - MARGIN
    last = cfg.frames - 1
    if event.kind == FALL:
        room = float(high[1] - low[1])
        drop = room * rng.uniform(*DROP)
        start = float(rng.uniform(low[0], high[0])), float(low[1] + rng.uniform(0, room - drop))
        return Fall(start, 2 * drop / last**2)
    at = float(rng.uniform(*TURN)) * last
    leg = min(rng.uniform(*LEG), float((high - low).min()) / (2 * TURN[1]))
    speed = 2 * leg / last
    before, after = (np.multiply(VECTOR[d], speed) for d in event.directions)
    # Where the turn may be, so that what comes before it and after it is in the frame as well.
    reach = np.stack([np.zeros(2), -before * at, after * (last - at)])
    corner = rng.uniform(low - reach.min(0), high - reach.max(0))
    if event.kind == BOUNCE:  # at the turn the object touches the border
        axis = int(np.argmax(np.abs(before)))
        corner[axis] = half[axis] if before[axis] < 0 else box[axis] - half[axis]
    (x, y), (bx, by), (ax, ay) = corner.tolist(), before.tolist(), after.tolist()
    return Turn(at, (x, y), (bx, by), (ax, ay))


def plan_event(
    attrs: Attrs, event: Event, seed: int | Sequence[int], cfg: RenderConfig, *, allow_held_out: bool = False
) -> tuple[Scene, Motion]:
    """A scene and the motion behind it; the same arguments give the same scene.

    Raises:
        StepVideoError: an object that has a direction or is not alone, too few frames, or a held-out combination
            without `allow_held_out`.
    """
    if attrs.direction is not None or attrs.count != 1:
        raise StepVideoError(f"{attrs}: an event happens to one object without a direction; take scenes.objects()")
    if cfg.frames < MIN_FRAMES:
        raise StepVideoError(f"frames is {cfg.frames}: an event takes {MIN_FRAMES} or more")
    if not allow_held_out and not may_be_trained(attrs, event):
        raise StepVideoError(
            f"{attrs} moving {', '.join(event.directions)} shows a held-out combination; take scenes.trainable(), or "
            "allow_held_out=True for evaluation ground truth"
        )
    rng = np.random.default_rng(seed)
    background = plan_background(rng, cfg)
    r, g, b = np.clip(np.array(RGB[attrs.colour]) * rng.uniform(0.94, 1.04), 0, 1).tolist()
    way = motion(attrs, event, rng, cfg)
    path = way.position(np.arange(cfg.frames, dtype=np.float64))
    travelled = float(np.abs(np.diff(path, axis=0)).sum())
    scene = Scene((attrs,), (Body(attrs, (r, g, b), path),), background, travelled * WINDOW / (cfg.frames - 1), event)
    return scene, way


def render_event(
    attrs: Attrs, event: Event, seed: int | Sequence[int], cfg: RenderConfig, *, allow_held_out: bool = False
) -> Frames:
    """A clip uint8 [t, h, w, 3]; raises as `plan_event`."""
    return draw(plan_event(attrs, event, seed, cfg, allow_held_out=allow_held_out)[0], cfg)
