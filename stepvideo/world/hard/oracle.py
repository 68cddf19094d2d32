"""Reads what happens in a video: the order of movements, a bounce off the border, a fall.

The path of the object's centroid is fitted by least squares to three laws: constant velocity, a turn between two
constant velocities, and constant acceleration. What is read follows from the fits alone, not from what was asked for.

Lengths in units of min(h, w), time in frames; n frames in which the object is seen.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from stepvideo.world import oracle
from stepvideo.world.attributes import VECTOR, Attrs
from stepvideo.world.events import BOUNCE, FALL, KINDS, OPPOSITE, SEQUENCE, Event
from stepvideo.world.oracle import GateRow, as_float, foreground

MIN_LEG = 0.08  # a movement; those of a rendered window of 17 frames are 0.17 and more
ALONG = 0.85  # cosine between a movement and its direction, at least
MAX_GAP = 0.06  # between the object and the border at a bounce; 4 px at 64 px
# A VAE that keeps 3 latent frames of 17 bends paths: the limits below are wider than rendered clips need, so that its
# reconstructions pass, and narrower than other motion would pass (docs/evaluation.md has the figures).
SPEEDS = (0.45, 2.2)  # after a bounce over before it: 1 if elastic
KEPT = 0.7  # of the object's area at a bounce: it does not leave the frame
ACCELERATED = (0.5, 1.45)  # share of a fall that is due to acceleration: 1 from rest, 0 at constant velocity
JERK = 1.3  # share due to a third derivative, at most
FITS = {SEQUENCE: 0.92, BOUNCE: 0.92, FALL: 0.92}  # R² of the law, at least
TURNS = np.arange(0.2, 0.801, 0.02)  # times of a turn that are tried, as shares of the clip


@dataclass(frozen=True)
class Track:
    """Where the object is: time [n], centroid [n, 2], its nearest and farthest edges [n, 2] (x, y), area [n]."""

    time: NDArray[np.float64]
    centre: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    area: NDArray[np.float64]
    frame: tuple[float, float]  # width and height


@dataclass(frozen=True)
class EventReading:
    """What was seen.

    Attributes:
        event: the one whose law holds, with the directions read; None if none does.
        fit: R² of each kind's law, whether or not the rest of it holds.
        measures: turn (frame), gap, speeds, accelerated, jerk … behind it.
    """

    event: Event | None
    fit: dict[str, float]
    measures: dict[str, float] = field(repr=False)


def track(video: NDArray, colour: str | None = None) -> Track | None:
    """Follow the object of the dominant hue (or of `colour`); None if it is in fewer than 5 frames.

    Args:
        video: [t, h, w, 3] RGB, uint8 or float in [0, 1].
    """
    mask, _ = foreground(as_float(video), colour)
    if mask is None:
        return None
    area = mask.sum((1, 2), dtype=np.float64)
    seen = area > 0.25 * np.median(area) + 1e-6
    if seen.sum() < 5:
        return None
    m, (h, w) = mask[seen].astype(np.float64), mask.shape[1:]
    u = min(h, w)
    profiles = m.sum(1), m.sum(2)  # along x, along y
    centre = np.stack([p @ (np.arange(p.shape[1]) + 0.5) for p in profiles], 1) / area[seen, None] / u
    edges = np.stack([_edges(m.max(axis)) for axis in (1, 2)], -1) / u  # [low | high, n, 2]
    return Track(np.flatnonzero(seen).astype(np.float64), centre, edges[0], edges[1], area[seen] / u**2, (w / u, h / u))


def _edges(profile: NDArray[np.float64]) -> NDArray[np.float64]:
    """First and last place [2, n], in pixels, where a soft profile [n, pixels] is above one half."""
    inside = profile > 0.5
    inside |= profile >= profile.max(1, keepdims=True)  # a faint object has a place, too
    return np.stack([inside.argmax(1), profile.shape[1] - inside[:, ::-1].argmax(1)]).astype(float)


class _Fit(NamedTuple):
    """A law fitted to the path: coefficients [terms, 2], and R² over both coordinates."""

    terms: NDArray[np.float64]
    r2: float


def _fit(design: NDArray[np.float64], path: NDArray[np.float64]) -> _Fit:
    terms = np.linalg.lstsq(design, path, rcond=None)[0].astype(np.float64)
    total = np.square(path - path.mean(0)).sum()
    return _Fit(terms, float(1 - np.square(path - design @ terms).sum() / max(total, 1e-9)))


def _turn(t: Track) -> tuple[float, _Fit]:
    """The time of the turn, and corner, velocity before and velocity after it [3, 2]."""
    span = t.time[-1] - t.time[0]
    best: tuple[float, _Fit] | None = None
    for at in (t.time[0] + span * TURNS).tolist():
        since = t.time - at
        found = _fit(np.stack([np.ones_like(since), since.clip(max=0), since.clip(min=0)], 1), t.centre)
        if best is None or found.r2 > best[1].r2:
            best = at, found
    assert best is not None
    return best


def _direction(v: NDArray[np.float64]) -> str | None:
    """The direction of a movement [2], None for one that is short or slanted."""
    length = float(np.linalg.norm(v))
    name = max(VECTOR, key=lambda d: float(v @ np.array(VECTOR[d])))
    return name if length >= MIN_LEG and float(v @ np.array(VECTOR[name])) >= ALONG * length else None


def read_event(video: NDArray, colour: str | None = None) -> EventReading:
    """Read one video; arguments as `track`. No object, no event."""
    t = track(video, colour)
    if t is None:
        return EventReading(None, dict.fromkeys(KINDS, 0.0), {})
    at, turn = _turn(t)
    legs = turn.terms[1] * (at - t.time[0]), turn.terms[2] * (t.time[-1] - at)
    first, second = map(_direction, legs)
    fall, measures = _fall(t)
    fit = {SEQUENCE: turn.r2, BOUNCE: turn.r2, FALL: fall}
    measures |= {"turn": at} | _contact(t, at, first, turn)
    held = {kind for kind in KINDS if fit[kind] >= FITS[kind]}
    event = None
    if first and second and second == OPPOSITE[first]:
        ok = measures["gap"] <= MAX_GAP and SPEEDS[0] <= measures["speeds"] <= SPEEDS[1] and measures["kept"] >= KEPT
        event = Event(BOUNCE, (first, second)) if ok and BOUNCE in held else None
    elif first and second and second != first:
        event = Event(SEQUENCE, (first, second)) if SEQUENCE in held else None
    elif FALL in held and ACCELERATED[0] <= measures["accelerated"] <= ACCELERATED[1]:
        ok = measures["jerk"] <= JERK and _direction(t.centre[-1] - t.centre[0]) == "down"
        event = Event(FALL, ("down",)) if ok else None
    return EventReading(event, fit, measures)


def _contact(t: Track, at: float, towards: str | None, turn: _Fit) -> dict[str, float]:
    """Is the object at the border that it moved towards when it turns? And does it keep its speed and its area?"""
    if towards is None:
        return {}
    axis = int(np.argmax(np.abs(VECTOR[towards])))
    out = VECTOR[towards][axis] > 0
    offset = np.median((t.high if out else t.low)[:, axis] - t.centre[:, axis])
    edge = turn.terms[0, axis] + offset
    near = np.abs(t.time - at) <= 1
    before, after = (float(np.linalg.norm(v)) for v in turn.terms[1:])
    return {
        "gap": float(abs(t.frame[axis] - edge if out else edge)),
        "speeds": after / max(before, 1e-9),
        "kept": float(t.area[near].min() / np.median(t.area)) if near.any() else 0.0,
    }


def _fall(t: Track) -> tuple[float, dict[str, float]]:
    """R² of constant acceleration, and how much of the way down is due to it and to a third derivative."""
    span = t.time[-1] - t.time[0]
    s = (t.time - t.time[0]) / span
    square = _fit(np.stack([np.ones_like(s), s, s**2], 1), t.centre)
    cube = _fit(np.stack([np.ones_like(s), s, s**2, s**3], 1), t.centre)
    down = float(square.terms[1:, 1].sum())
    floor = max(abs(down), 1e-9)
    measures = {
        "acceleration": float(2 * square.terms[2, 1] / span**2),
        "accelerated": float(square.terms[2, 1] / floor) * (1 if down > 0 else -1),
        "jerk": float(abs(cube.terms[3, 1]) / floor),
    }
    return square.r2, measures


def score_event(video: NDArray, attrs: Attrs, event: Event) -> dict[str, bool]:
    """Which are right: the event with its order, the object's colour, shape, size and count, and "all" of them."""
    right = oracle.score(oracle.read(video), attrs.still())
    del right["all"]
    right["event"] = read_event(video).event == event
    return {**right, "all": all(right.values())}


def gate_events(
    videos: Iterable[NDArray], attrs: Sequence[Attrs], events: Sequence[Event], bar: float
) -> dict[str, GateRow]:
    """May scores of each kind of event be reported? As `world.oracle.gate`, by the kind of what is truly shown."""
    right, n = dict.fromkeys(KINDS, 0), dict.fromkeys(KINDS, 0)
    for video, a, event in zip(videos, attrs, events, strict=True):
        right[event.kind] += score_event(video, a, event)["event"]
        n[event.kind] += 1
    rates = {k: right[k] / n[k] if n[k] else float("nan") for k in KINDS}
    return {k: GateRow(rates[k], n[k] > 0 and rates[k] >= bar, n[k]) for k in KINDS}
