"""Gradual transitions: fades, wipes and dissolves as spans of frames.

A dissolve is a straight path through picture space between two places where the picture rests: with mean absolute
difference as the distance d, a picture m that mixes a and b, in light or in parts, has d(a, m) + d(m, b) = d(a, b).
Motion takes detours. A fade ends or begins at a uniform picture, and its distance from it grows all the way.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from stepvideo.curation.config import SegmentConfig
from stepvideo.curation.strip import FAINT, Strip
from stepvideo.curation.wipes import wipes

WINDOWS = (8, 12, 16, 24, 32, 48)  # frames; lengths that are tried
SHORTEST = 4  # frames; what is shorter is for the hard cuts
BRIEF = 12  # frames; a fade out, so much of a uniform picture and a fade in are one transition
HASTE = 2.2  # the fastest frame of a transition / its mean; a thing that jumps in and stays is faster
SPREAD = 0.4  # share of the picture that changes; less may be a thing that moves over a plain ground
MIXED = 0.3  # distance of the middle from a mixture of the ends / theirs; about 0.5 for a thing that moves


@dataclass(frozen=True, order=True)
class Transition:
    """Frames [start, end) of no shot. `kind`: fade, fade out, fade in, blank (between fades), wipe, dissolve."""

    start: int
    end: int
    kind: str

    def touches(self, start: int, end: int) -> bool:
        return self.start < end and start < self.end


def transitions(strip: Strip, config: SegmentConfig) -> list[Transition]:
    """All of a film's transitions, ascending; none overlap."""
    found = _fades(strip, config)
    for others in ([Transition(*w, "wipe") for w in wipes(strip, config)], _dissolves(strip, config)):
        found += [t for t in others if not any(f.touches(t.start, t.end) for f in found)]
    return sorted(found)


def _fades(strip: Strip, config: SegmentConfig) -> list[Transition]:
    blank = np.concatenate([[False], strip.contrast < config.blank, [False]])
    edges = np.flatnonzero(blank[1:] != blank[:-1])
    found: list[Transition] = []
    for first, after in zip(edges[::2].tolist(), edges[1::2].tolist()):
        start, end = _reach(strip, first, -1) + 1, _reach(strip, after - 1, 1)
        gone, came = first - start >= SHORTEST - 1, end - after >= SHORTEST - 1
        if gone and found and found[-1].end > start:  # the last one's way up is this one's way down
            start = found[-1].end
        if gone and came and after - first <= BRIEF:
            found.append(Transition(start, end, "fade"))
        elif gone or came:
            found += [Transition(start, first, "fade out")] if gone else []
            found.append(Transition(first, after, "blank"))
            found += [Transition(after, end, "fade in")] if came else []
    return [t for t in found if t.start < t.end]


def _reach(strip: Strip, edge: int, step: int) -> int:
    """How far from the uniform picture `edge` the distance to it still grows; `edge` if not beyond noise."""
    i, distance = edge, 0.0
    while 0 <= i + step < len(strip):
        further = strip.apart(i + step, edge)
        if further < distance + max(0.01 * distance, 0.15):  # the slowest fade that is followed: 1 % a frame
            break
        i, distance = i + step, further
    return i if distance >= 2 * FAINT else edge


def _dissolves(strip: Strip, config: SegmentConfig) -> list[Transition]:
    steps = {lag: strip.steps(lag) for lag in {1, *WINDOWS, *(w // 4 for w in WINDOWS)}}
    contrast = strip.contrast
    windows: list[tuple[float, int, int]] = []
    for length in WINDOWS:
        quarter = length // 4
        start = np.arange(quarter, len(strip) - length - quarter)
        if not start.size:
            break
        way = steps[length][start]
        path = np.sum([steps[quarter][start + i * quarter] for i in range(4)], axis=0)
        rest = np.maximum(steps[quarter][start - quarter], steps[quarter][start + length])
        sudden = np.lib.stride_tricks.sliding_window_view(steps[1], length).max(axis=1)[start]
        good = (way >= 2 * FAINT) & (way >= config.straight * path) & (rest <= config.rest * way / 4)
        good &= way >= config.min_way * np.maximum(contrast[start], contrast[start + length])
        good &= sudden <= HASTE * way / length
        windows += [
            (float(way[i] / (path[i] + 2 * rest[i])), s, s + length)
            for i in np.flatnonzero(good)
            if strip.likeness(s := int(start[i]), s + length) <= config.alike and not _moves(strip, s, s + length)
        ]
    best: list[Transition] = []
    for _, start, end in sorted(windows, reverse=True):
        if not any(t.touches(start, end) for t in best):
            best.append(Transition(start, end, "dissolve"))
    return [t for t in (_tight(strip, t) for t in best) if t.end - t.start >= SHORTEST]


def _moves(strip: Strip, start: int, end: int) -> bool:
    """Whether things move before a ground that rests: few pixels change, and each swaps one colour for another."""
    first, middle, last = (strip.pictures[i].astype(np.float32) for i in (start, (start + end) // 2, end))
    change = last - first
    pixels = np.abs(change).reshape(-1, 3).mean(axis=1)
    spread = pixels.mean() ** 2 / np.square(pixels).mean()  # participation ratio
    weight = np.vdot(middle - first, change) / np.vdot(change, change)
    unmixed = np.abs(middle - first - weight * change).mean() / pixels.mean()
    return bool(spread < SPREAD and unmixed > MIXED)


def _tight(strip: Strip, found: Transition) -> Transition:
    """The part of a window in which the picture leaves its first place and has not yet reached the last."""
    share = []
    for i in range(found.start, found.end + 1):
        gone, left = strip.apart(found.start, i), strip.apart(i, found.end)
        share.append(gone / (gone + left))
    start = found.start + int(np.flatnonzero(np.array(share) <= 0.06)[-1]) + 1
    end = found.start + int(np.flatnonzero(np.array(share) >= 0.94)[0])
    return Transition(start, end, found.kind)
