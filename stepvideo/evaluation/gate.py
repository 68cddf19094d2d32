"""May scores be reported? The oracle must read videos whose truth is known: as rendered, and after the VAE (DESIGN §5).

What falls below its bar is printed as untestable, never as a result. Held-out combinations are among the rendered
videos: this is evaluation ground truth, nothing is trained on it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from stepvideo import storage
from stepvideo.errors import ConfigError
from stepvideo.evaluation.config import GateConfig
from stepvideo.evaluation.results import GATE_PARTS, gate_estimate
from stepvideo.evaluation.stats import Estimate
from stepvideo.world import oracle
from stepvideo.world.attributes import NAMES, Attrs, all_combinations
from stepvideo.world.config import RenderConfig
from stepvideo.world.render import render

SEED = 7_700_000  # of the rendered truth; far from the seeds of training clips
_PART = 16  # videos held at a time


@dataclass(frozen=True)
class Rate:
    """Share of right readings of one attribute; None where no video has it (direction of stills)."""

    rate: float | None
    n: int
    bar: float

    @property
    def ok(self) -> bool:
        return self.rate is not None and self.rate >= self.bar

    @property
    def estimate(self) -> Estimate | None:
        return gate_estimate(asdict(self))

    def as_dict(self) -> dict[str, Any]:
        e = self.estimate
        return {**asdict(self), "low": e and e.low, "high": e and e.high}


@dataclass(frozen=True)
class Gate:
    """Rates per attribute on rendered truth and on its reconstructions."""

    ground_truth: dict[str, Rate]
    reconstruction: dict[str, Rate]

    @property
    def testable(self) -> dict[str, bool]:
        """Attribute → may its score be reported; "all" only if every attribute that exists may."""
        out = {n: self.ground_truth[n].ok and self.reconstruction[n].ok for n in NAMES}
        out["all"] = all(out[n] for n in NAMES if self.ground_truth[n].rate is not None)
        return out

    def as_dict(self) -> dict[str, Any]:
        parts = {part: {n: r.as_dict() for n, r in getattr(self, part).items()} for part in GATE_PARTS}
        return {**parts, "testable": self.testable}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Gate:
        """What `as_dict` gave, now or before it had intervals."""
        return cls(*({n: Rate(r["rate"], r["n"], r["bar"]) for n, r in data[part].items()} for part in GATE_PARTS))


def truth(count: int, frames: int, height: int, width: int) -> list[Attrs]:
    """Attributes of `count` videos, spread evenly over the grid in a fixed order."""
    grid = all_combinations()
    order = np.random.default_rng(SEED).permutation(len(grid))
    combos = [grid[order[i % len(grid)]] for i in range(count)]
    return [a.still() for a in combos] if frames == 1 else combos


def run_gate(
    cfg: GateConfig,
    frames: int,
    height: int,
    width: int,
    reconstruct: Callable[[np.ndarray], np.ndarray],
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Gate:
    """Read rendered videos and their reconstructions.

    Args:
        reconstruct: uint8 [n, t, h, w, 3] → the same through the VAE.
        progress: called with (videos read, of how many).

    Raises:
        ConfigError: the world cannot be rendered at this size, or has no such background.
    """
    try:
        look = RenderConfig(height=height, width=width, frames=frames, backgrounds=list(cfg.backgrounds))
    except ValueError as e:
        raise ConfigError(f"the oracle cannot be checked at {frames} frames of {height}x{width}: {e}") from e
    attrs = truth(cfg.clips, frames, height, width)
    total = cfg.clips + cfg.reconstructions

    def rendered(start: int, stop: int) -> np.ndarray:
        return np.stack([render(attrs[i], (SEED, i), look, allow_held_out=True) for i in range(start, stop)])

    def originals() -> Iterator[np.ndarray]:
        for i in range(0, cfg.clips, _PART):
            yield from rendered(i, min(i + _PART, cfg.clips))
            progress(min(i + _PART, cfg.clips), total)

    def decoded() -> Iterator[np.ndarray]:
        for i in range(0, cfg.reconstructions, _PART):
            stop = min(i + _PART, cfg.reconstructions)
            yield from reconstruct(rendered(i, stop))
            progress(cfg.clips + stop, total)

    return Gate(
        _rates(oracle.gate(originals(), attrs, cfg.ground_truth_bar), cfg.ground_truth_bar),
        _rates(oracle.gate(decoded(), attrs[: cfg.reconstructions], cfg.reconstruction_bar), cfg.reconstruction_bar),
    )


def _rates(rows: dict[str, oracle.GateRow], bar: float) -> dict[str, Rate]:
    return {n: Rate(None if math.isnan(r.rate) else r.rate, r.n, bar) for n, r in rows.items()}


def reuse(folder: Path, fingerprint: dict[str, Any]) -> Gate | None:
    """The gate that another evaluation found, if it had the same VAE, sizes and bars."""
    path = Path(folder) / "gate.json"
    if not path.exists():
        return None
    data = storage.read_json(path)
    return Gate.from_dict(data["gate"]) if data["of"] == fingerprint else None


def save(folder: Path, gate: Gate, fingerprint: dict[str, Any]) -> None:
    storage.write_json(Path(folder) / "gate.json", {"of": fingerprint, "gate": gate.as_dict()})
