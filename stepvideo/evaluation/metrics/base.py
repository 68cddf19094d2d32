"""What a metric of a video is, and how a video is measured by several of them.

    metrics = metrics_of(["flicker", "cuts"])          # registry.py
    scores = measure(frames_FHW3, fps, Asked("a red ball", "en"), metrics)
    scores.values["temporal_flicker"], scores.reasons  # a number, or None and why

Legend: F frames, H W sides in pixels, 3 RGB.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

import numpy as np

from stepvideo.errors import ConfigError
from stepvideo.evaluation.metrics.video import Video

HIGHER, LOWER, NEITHER = "higher", "lower", "neither"  # which is better; NEITHER describes and does not judge


@dataclass(frozen=True)
class Asked:
    """What a video was asked to show: a row of a suite, as the model was given it.

    Attributes:
        lang: of `prompt`, "zh" or "en"; "" if unknown.
        dimensions: names that the suite gives to what the prompt tests.
        aux: what the suite knows about the answer, such as the text that must be readable.
    """

    prompt: str = ""
    lang: str = ""
    category: str = ""
    dimensions: tuple[str, ...] = ()
    aux: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Null:
    """No score, and the reason, for a person. Never a zero."""

    reason: str


class Metric(Protocol):
    """One or several values of a video that belong together.

    Attributes:
        name: in the registry and in result files.
        version: another one whenever a value changes for the same frames.
        values: each value's name → HIGHER, LOWER or NEITHER. No two metrics share one.
        rates: those of `values` that are 0 or 1, so that their mean is a rate.
        needs: what it needs beside frames: "prompt" if a value depends on what was asked (values that are kept are
            kept by it, too), "weights", or the name of a package.
    """

    name: ClassVar[str]
    version: ClassVar[str]
    values: ClassVar[Mapping[str, str]]
    needs: ClassVar[tuple[str, ...]]
    rates: ClassVar[tuple[str, ...]]

    @property
    def weights_digest(self) -> str:
        """Of the files that the values depend on; "" if there are none."""
        ...

    def score(self, video: Video, asked: Asked) -> Mapping[str, float | Null] | Null:
        """Each of `values`, or why there are none. Depends on the arguments and the weights alone."""
        ...


class Computed:
    """Base of the metrics that have no weights."""

    needs: ClassVar[tuple[str, ...]] = ()
    rates: ClassVar[tuple[str, ...]] = ()
    weights_digest = ""

    def __init__(self, weights: str = "") -> None:
        if weights:
            raise ConfigError(f"the metric {type(self).__name__} has no weights; {weights!r} was given: leave it out")


@dataclass(frozen=True)
class Scores:
    """Values of one video by name; a value that is None has a reason."""

    values: dict[str, float | None]
    reasons: dict[str, str]


def measure(frames: np.ndarray, fps: float, asked: Asked, metrics: Sequence[Metric]) -> Scores:
    """Every metric's values of one video; what several need, such as optical flow, is computed once.

    Args:
        frames: uint8 [F, H, W, 3] RGB.
        fps: frames a second; 0 for a still.

    Raises:
        ValueError: the frames are no video, or a metric gives other values than it says: a fault of the metric.
    """
    video = Video(frames, fps)
    values: dict[str, float | None] = {}
    reasons: dict[str, str] = {}
    for metric in metrics:
        found = metric.score(video, asked)
        if isinstance(found, Null):
            found = dict.fromkeys(metric.values, found)
        if set(found) != set(metric.values):
            raise ValueError(f"metric {metric.name} gave {', '.join(found)}; it says {', '.join(metric.values)}")
        for name, value in found.items():
            if isinstance(value, Null):
                values[name], reasons[name] = None, value.reason
            elif math.isfinite(value):
                values[name] = float(value)
            else:
                raise ValueError(f"metric {metric.name} gave {name}={value}")
    return Scores(values, reasons)


def describe(metrics: Sequence[Metric]) -> dict[str, dict[str, Any]]:
    """For the head of a result file: {metric: {version, values: {name: direction}, weights: digest or ""}}."""
    return {m.name: {"version": m.version, "values": dict(m.values), "weights": m.weights_digest} for m in metrics}
