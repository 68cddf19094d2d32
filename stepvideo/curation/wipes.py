"""Wipes: a straight front crosses the picture from one side to the other, and leaves another scene behind it.

Every column (or line) of the picture changes as the front passes it, and little before and after. Things that cross the
picture leave the scene that was there, and a camera that pans changes all columns at once.

Legend: N frames, W columns or lines of a tiny picture, F frames that a front takes.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from stepvideo.curation.config import SegmentConfig
from stepvideo.curation.strip import FAINT, Strip

Span = tuple[int, int]
FRAMES = (*range(6, 17), *range(18, 31, 2), 33, 36)  # that are tried
STEEP = 2.0  # change at the front / change elsewhere in the same frames
EVEN = 1.3  # change at the front / the same in its weakest quarter, times STEEP
AT_ONCE = 0.5  # change at the front / distance of the pictures before and after


def wipes(strip: Strip, config: SegmentConfig) -> list[Span]:
    """Frames [start, end) in which a front is on its way; ascending, none overlap."""
    fronts: list[tuple[float, int, int]] = []
    for change in strip.profiles:
        width = change.shape[1]
        for frames in FRAMES:
            passes = ((np.arange(width) + 0.5) / width * frames).astype(int)
            for when in (passes, passes[::-1]):
                fronts += [
                    (steep, start + 1, start + 1 + frames)
                    for start, steep, front in _fronts(change, when, frames)
                    if _another_scene(strip, start, frames, front, config)
                ]
    best: list[Span] = []
    for _, start, end in sorted(fronts, reverse=True):
        if not any(start < b and a < end for a, b in best):
            best.append((start, end))
    return sorted(best)


def _fronts(change: np.ndarray, when: np.ndarray, frames: int) -> Iterator[tuple[int, float, float]]:
    """(step at which it sets out, steepness, change at the front) of fronts that pass place x after `when[x]` steps."""
    starts = np.arange(len(change) - frames + 1)
    if not starts.size:
        return
    passing = change[starts[:, None] + when, np.arange(len(when))]
    front = passing.mean(axis=1)
    sums = np.concatenate([[0.0], change.mean(axis=1, dtype=np.float64).cumsum()])
    elsewhere = np.abs(np.arange(frames)[:, None] - when) > 1
    for start in np.flatnonzero((front >= 2 * FAINT) & (front * frames >= 1.8 * (sums[frames:] - sums[:-frames]))):
        weakest = min(part.mean() for part in np.array_split(passing[start], 4))
        steep = min(front[start], EVEN * weakest) / (change[start : start + frames][elsewhere].mean() + 1)
        if steep >= STEEP:
            yield int(start), float(steep), float(front[start])


def _another_scene(strip: Strip, before: int, frames: int, front: float, config: SegmentConfig) -> bool:
    """Whether the front brings what was not there, neither as it set out nor as long before; else something passed."""
    after = min(before + 1 + frames, len(strip) - 1)
    way = strip.apart(before, after)
    far = way >= config.min_way * max(strip.contrast[before], strip.contrast[after]) and front >= AT_ONCE * way
    return bool(far and all(strip.likeness(i, after) <= config.alike for i in (before, max(before - frames, 0))))
