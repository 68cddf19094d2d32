"""Which snapshot of a run to take (report §8): one after the gradient norm's peak, with both norm and loss down.

Curves are smoothed by the mean over the last `smooth` steps. A snapshot of step S has seen the steps before S; it
qualifies if its last step lies after the peak, and the smoothed norm and the smoothed loss there are both below their
values at the peak.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from stepvideo import storage
from stepvideo.errors import ArtifactError

CURVE = "loss_curve.json"
_SNAPSHOT = re.compile(r"step-(\d+)")
Row = tuple[int, float, float]  # step, loss, gradient norm


@dataclass(frozen=True)
class Judged:
    """A snapshot with the smoothed norm and loss at its last step (NaN where no full window lies), and the verdict."""

    step: int
    norm: float
    loss: float
    qualifies: bool
    reason: str


@dataclass(frozen=True)
class Selection:
    """The peak, every snapshot in order of steps, and those that qualify, best first: lowest loss, then lowest norm,
    then latest."""

    peak: int
    peak_norm: float
    peak_loss: float
    snapshots: list[Judged]

    @property
    def ranked(self) -> list[Judged]:
        return sorted((s for s in self.snapshots if s.qualifies), key=lambda s: (s.loss, s.norm, -s.step))

    @property
    def reason(self) -> str:
        """Why none qualifies; "" if one does."""
        if self.ranked:
            return ""
        after = [s for s in self.snapshots if s.step > self.peak + 1]
        if not after:
            return f"no snapshot was taken after the gradient norm's peak at step {self.peak}"
        return f"after the gradient norm's peak at step {self.peak}: " + "; ".join(
            f"step {s.step}: {s.reason}" for s in after
        )


def smoothed(rows: Sequence[Row], width: int) -> list[Row]:
    """Means over each full window of `width` rows, at the window's last step; a shorter curve has one window."""
    width = min(width, len(rows))
    windows = (rows[i : i + width] for i in range(len(rows) - width + 1))
    return [(w[-1][0], math.fsum(r[1] for r in w) / width, math.fsum(r[2] for r in w) / width) for w in windows]


def judge(rows: Sequence[Row], steps: Iterable[int], smooth: int, warmup: int = 0) -> Selection:
    """The verdict on snapshots taken after `steps` optimizer steps.

    Args:
        rows: of every step, in order; those that are not finite (a skipped step) are left aside.
        warmup: first steps in which no peak is looked for: there the norm follows the learning rate.

    Raises:
        ValueError: no row is left after the warm-up.
    """
    curve = smoothed([r for r in rows if math.isfinite(r[1]) and math.isfinite(r[2])], smooth)
    later = [r for r in curve if r[0] >= warmup]
    if not later:
        raise ValueError(f"no finite row of the curve lies after warmup={warmup}; give a smaller one")
    peak = max(later, key=lambda r: (r[2], -r[0]))
    return Selection(peak[0], peak[2], peak[1], [_verdict(curve, step, peak) for step in sorted(steps)])


def _verdict(curve: Sequence[Row], step: int, peak: Row) -> Judged:
    before = [r for r in curve if r[0] < step]
    if not before:
        return Judged(step, math.nan, math.nan, False, "before the first full window of the curve")
    last, loss, norm = before[-1]
    if last <= peak[0]:
        return Judged(step, norm, loss, False, "not after the peak")
    above = [
        f"{name} {value:.4g} is not below its {top:.4g} at the peak"
        for name, value, top in (("norm", norm, peak[2]), ("loss", loss, peak[1]))
        if not value < top
    ]
    return Judged(step, norm, loss, not above, ", ".join(above) or "norm and loss are below their values at the peak")


def read_rows(run: Path) -> list[Row]:
    """The curve that a training stage left.

    Raises:
        ArtifactError: there is none, or it is no curve.
    """
    content = storage.read_json(run / CURVE)
    try:
        rows = [(int(step), float(loss), float(norm)) for step, loss, norm, *_ in content["rows"]]
    except (KeyError, TypeError, ValueError) as e:
        raise ArtifactError(f"{run / CURVE} holds no rows of step, loss and gradient norm: {e}") from e
    if not rows or any(a[0] >= b[0] for a, b in zip(rows, rows[1:])):
        raise ArtifactError(f"{run / CURVE}: steps must rise from row to row, and there must be one")
    return rows


def snapshots(run: Path, rows: Sequence[Row]) -> dict[int, Path]:
    """Folders of a run's models by the steps they have seen; the last is the run's own result."""
    found = {int(m[1]): p for p in (run / "snapshots").glob("step-*") if (m := _SNAPSHOT.fullmatch(p.name))}
    return dict(sorted(found.items())) | {rows[-1][0] + 1: run}
