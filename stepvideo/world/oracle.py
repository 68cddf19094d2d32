"""Reads colour, shape, direction, size and count from any video, and says how sure it is.

Works on renderings, reconstructions and generations: a soft foreground mask by hue, connected components for the
count, soft area for the size, the drift of the centroid for the direction, and for the shape angular harmonics of the
soft mask, |Σ w rᵏ e^{ikθ}| / Σ w rᵏ at k = 3 and 4. Bounding boxes fail under the blur of an autoencoder; these hold.

Shapes of arrays: t frames, h, w pixels. Lengths are in units of min(h, w), areas in its square.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from stepvideo.world.attributes import COLOURS, DIRECTIONS, GRID, NAMES, SHAPES, VECTOR, Attrs
from stepvideo.world.render import AREA, RADIUS, RGB

MIN_CHROMA = 0.22  # backgrounds stay below 0.1, objects above 0.6; duller than this is no object
MIN_AREA = 0.006  # of a component; the smallest object covers 0.025
MIN_SHIFT = 0.06  # of the centroid over the clip; the slowest object moves 0.2
# Of a triangle and a square; half of it divides them from a circle. Sharp 0.66 and 0.43, a circle below 0.03; h4
# through the VAE of `micro`: small squares 0.19 to 0.32, small circles 0.09 to 0.20 (docs/decisions/008).
PURE = {"h3": 0.50, "h4": 0.40}
HUE_WIDTH = np.float32(np.cos(np.deg2rad(38)))


@dataclass(frozen=True)
class Reading:
    """What the oracle sees. An attribute is None where nothing can be said; count is 0 when there is no object.

    Attributes:
        soft: for each attribute, a score in [0, 1] for each value of the grid.
        details: the measurements behind the reading (harmonics, area, displacement, counts per frame …).
    """

    colour: str | None
    shape: str | None
    direction: str | None
    size: str | None
    count: int
    soft: Mapping[str, Mapping[Any, float]] = field(repr=False)
    details: Mapping[str, Any] = field(repr=False)

    @property
    def confidences(self) -> dict[str, float]:
        """For each attribute, the soft score of the value read (0 where none was)."""
        return {n: float(self.soft[n].get(getattr(self, n), 0.0)) for n in NAMES}


def _hue_plane(video: NDArray) -> NDArray[np.float32]:
    """Two opponent axes [2, ...] of RGB in [0, 1]; length is close to the chroma, angle is the hue."""
    r, g, b = (np.ascontiguousarray(video[..., i], np.float32) for i in range(3))
    return np.stack([r - (g + b) * np.float32(0.5), (g - b) * np.float32(np.sqrt(3) / 2)])


def _length(v: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.sqrt(v[0] * v[0] + v[1] * v[1])


_PALETTE = _hue_plane(np.array([RGB[c] for c in COLOURS], np.float32))
_PALETTE /= _length(_PALETTE)  # [2, colours], unit vectors


def as_float(video: NDArray) -> NDArray[np.float32]:
    """[t, h, w, 3] in [0, 1] of a video or an image. Raises ValueError on another shape."""
    v = np.asarray(video)
    v = v[None] if v.ndim == 3 else v
    if v.ndim != 4 or v.shape[-1] != 3:
        raise ValueError(f"video has shape {v.shape}; give [t, h, w, 3] or [h, w, 3], RGB")
    return v.astype(np.float32) * np.float32(1 / 255 if v.dtype == np.uint8 else 1)


def foreground(video: NDArray[np.float32], wanted: str | None) -> tuple[NDArray[np.float32] | None, dict[str, float]]:
    """Soft mask [t, h, w] of the dominant (or wanted) hue, and the vote of each colour."""
    plane = _hue_plane(video)
    length = _length(plane)
    top = np.quantile(length[:, ::2, ::2], 0.995)
    if top < MIN_CHROMA:
        return None, dict.fromkeys(COLOURS, 0.0)
    core = length > 0.6 * top
    vectors = plane[:, core]
    nearest = (vectors.T @ _PALETTE).argmax(-1)
    weight = np.bincount(nearest, length[core], len(COLOURS))
    votes = {c: float(w / weight.sum()) for c, w in zip(COLOURS, weight, strict=True)}
    chosen = COLOURS.index(wanted) if wanted else int(weight.argmax())
    mine = vectors[:, nearest == chosen]
    if not mine.size:
        return None, votes
    axis = mine.mean(1) / _length(mine.mean(1))
    peak = np.median(axis @ mine)
    along = axis[0] * plane[0] + axis[1] * plane[1]
    # Another hue must not leak in: a pixel counts only within the hue's sector.
    mask = np.where(along > HUE_WIDTH * length, along / peak, 0)
    # Linear about one half, so that the area is unbiased under symmetric blur; weak tails are cut.
    return np.clip((mask - 0.2) / 0.6, 0, 1).astype(np.float32), votes


@dataclass
class _Blobs:
    """Measurements of the components of all frames."""

    counts: list[int]
    areas: list[float]
    moments: list[tuple[complex, complex]]  # normalised harmonics 3 and 4


def _blobs(mask: NDArray[np.float32]) -> _Blobs:
    u = min(mask.shape[1:])
    found = _Blobs([], [], [])
    for frame in mask:
        n, labels, stats, _ = cv2.connectedComponentsWithStats((frame > 0.5).astype(np.uint8), connectivity=4)
        areas = stats[1:n, cv2.CC_STAT_AREA]
        floor = max(MIN_AREA * u * u, 0.25 * areas.max(initial=0))
        keep = [i + 1 for i, a in enumerate(areas) if a >= floor]
        found.counts.append(len(keep))
        for label in keep:
            x, y, w, h = stats[label, :4]
            box = np.s_[max(0, y - 2) : y + h + 2, max(0, x - 2) : x + w + 2]
            weight = np.where((labels[box] == label) | (labels[box] == 0), frame[box], 0)
            area = float(weight.sum())
            ys, xs = np.indices(weight.shape, np.float32)
            z = (xs - (weight * xs).sum() / area) + 1j * (ys - (weight * ys).sum() / area)
            r = np.abs(z)
            z3 = z * z * z
            m3, m4 = (weight * z3).sum(), (weight * z3 * z).sum()
            found.areas.append(area / u**2)
            found.moments.append((m3 / (weight * r**3).sum(), m4 / (weight * r**4).sum()))
    return found


def _soft_shape(h3: float, h4: float) -> dict[str, float]:
    logits = {"triangle": 9 * h3 / PURE["h3"], "square": 9 * h4 / PURE["h4"], "circle": 4.5}
    logits["square"] -= 9 * max(0.0, h3 / PURE["h3"] - 0.4)  # a square has no third harmonic, even a distorted one
    top = max(logits.values())
    e = {s: float(np.exp(logits[s] - top)) for s in SHAPES}
    return {s: e[s] / sum(e.values()) for s in SHAPES}


def _drift(mask: NDArray[np.float32]) -> NDArray[np.float64]:
    """Displacement (x, y) of the centroid over the clip, by a least-squares line through all frames that show it."""
    t, h, w = mask.shape
    area = mask.sum((1, 2)).astype(np.float64)
    seen = area > 0.25 * np.median(area) + 1e-6
    if seen.sum() < 2:
        return np.zeros(2)
    m = mask[seen].astype(np.float64)
    centre = np.stack([(m.sum(1) @ np.arange(w)), (m.sum(2) @ np.arange(h))], -1) / area[seen, None]
    time = np.arange(t)[seen].astype(np.float64)
    time -= time.mean()
    slope = (time[:, None] * (centre - centre.mean(0))).sum(0) / (time**2).sum()
    return slope * (t - 1) / min(h, w)


def _soft_direction(shift: NDArray[np.float64]) -> dict[str, float]:
    length = float(np.linalg.norm(shift))
    if length < 1e-6:
        return dict.fromkeys(DIRECTIONS, 0.0)
    moved = min(1.0, length / (2 * MIN_SHIFT))
    return {d: moved * max(0.0, float(shift @ np.array(VECTOR[d])) / length) ** 2 for d in DIRECTIONS}


def _best(soft: Mapping[Any, float], floor: float = 0.0) -> Any:
    value = max(soft, key=lambda k: soft[k])
    return value if soft[value] > floor else None


def _nothing(votes: Mapping[str, float]) -> Reading:
    soft = {n: dict.fromkeys(GRID[n], 0.0) for n in NAMES}
    return Reading(None, None, None, None, 0, soft, {"votes": dict(votes), "counts": {0: 1.0}, "steadiness": 0.0})


def read(video: NDArray, colour: str | None = None) -> Reading:
    """Read one video.

    Args:
        video: [t, h, w, 3] RGB, uint8 or float in [0, 1], 48 to 128 px; or an image [h, w, 3] (direction is then None).
        colour: read the object of this colour, for scenes of several; default: the colour that covers most.
    """
    mask, votes = foreground(as_float(video), colour)
    if mask is None:
        return _nothing(votes)
    blobs = _blobs(mask)
    if not blobs.areas:
        return _nothing(votes)

    tally = Counter(blobs.counts)
    counts = {k: n / len(mask) for k, n in sorted(tally.items())}
    h3, h4 = (float(abs(np.mean([m[i] for m in blobs.moments]))) for i in (0, 1))
    shapes = _soft_shape(h3, h4)
    shape = _best(shapes)
    area = float(np.median(blobs.areas))
    threshold = np.pi * RADIUS["small"] * RADIUS["large"] * AREA[shape]
    large = float(1 / (1 + np.exp(-np.log(area / threshold) / 0.15)))
    shift = _drift(mask) if len(mask) > 1 else np.zeros(2)
    directions = _soft_direction(shift)

    spread = float(np.std(blobs.areas) / np.mean(blobs.areas))
    soft: dict[str, Mapping[Any, float]] = {
        "colour": votes,
        "shape": shapes,
        "direction": directions,
        "size": {"small": 1 - large, "large": large},
        "count": {n: float(counts.get(n, 0.0)) for n in GRID["count"]},
    }
    details = {
        "votes": votes,
        "counts": counts,
        "h3": h3,
        "h4": h4,
        "area": area,
        "shift": (float(shift[0]), float(shift[1])),
        "steadiness": float(np.exp(-2 * spread)),  # 1: the area of the object never changes
    }
    return Reading(
        colour=_best(votes) if colour is None else colour,
        shape=shape,
        direction=_best(directions) if float(np.linalg.norm(shift)) >= MIN_SHIFT else None,
        size="large" if large > 0.5 else "small",
        count=max(tally, key=lambda k: (tally[k], -k)),
        soft=soft,
        details=details,
    )


def score(reading: Reading, attrs: Attrs) -> dict[str, bool]:
    """Which attributes are right, and "all" of them. A still image's None direction is not asked for."""
    right = {n: getattr(reading, n) == getattr(attrs, n) for n in NAMES if getattr(attrs, n) is not None}
    return {**right, "all": all(right.values())}


def fidelity(reading: Reading, attrs: Attrs) -> float:
    """How well a video shows `attrs`, continuous in [0, 1]; for judging pairs, where right/wrong ties too often.

    Mean of the soft scores of the asked-for values and of the steadiness of the object's area.
    """
    asked = [float(reading.soft[n].get(getattr(attrs, n), 0.0)) for n in NAMES if getattr(attrs, n) is not None]
    return float(np.mean([*asked, reading.details["steadiness"]]))


class GateRow(NamedTuple):
    """One attribute's rate of right readings, whether it clears the bar, and on how many videos."""

    rate: float
    ok: bool
    n: int

    @property
    def verdict(self) -> str:
        return "testable" if self.ok else "untestable"


def gate(videos: Iterable[NDArray], attrs: Sequence[Attrs], bar: float) -> dict[str, GateRow]:
    """May scores be reported? Reads videos whose truth is known (ground truth, or reconstructions of it).

    Returns:
        a row for each attribute; where `ok` is False, that attribute's scores are to be printed as *untestable*.
        Attributes that no video has (direction of images) have n = 0 and are not ok.
    """
    right, n = Counter(), Counter()
    for video, a in zip(videos, attrs, strict=True):
        for name, good in score(read(video), a).items():
            right[name] += good
            n[name] += 1
    rates = {k: right[k] / n[k] if n[k] else float("nan") for k in NAMES}
    return {k: GateRow(rates[k], n[k] > 0 and rates[k] >= bar, n[k]) for k in NAMES}
