"""Metrics by name. Torch-free; a metric's module is imported when it is asked for."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence

from stepvideo.errors import ConfigError
from stepvideo.evaluation.metrics.base import Metric

METRICS = {  # name → module in this package, class
    "flicker": ("motion", "Flicker"),
    "dynamic_degree": ("motion", "DynamicDegree"),
    "warp_error": ("warping", "WarpError"),
    "smoothness": ("warping", "Smoothness"),
    "cuts": ("cuts", "Cuts"),
    "picture": ("picture", "Picture"),
    "clip_score": ("learned", "ClipScore"),
    "aesthetic": ("learned", "Aesthetic"),
    "written_text": ("written_text", "WrittenText"),
    "oracle": ("oracle", "Oracle"),
    "events": ("events", "Events"),
}


def metrics_of(names: Sequence[str] = (), weights: Mapping[str, str] | None = None) -> list[Metric]:
    """The metrics of these names, all of them for none, each once and in the order of `METRICS`.

    Args:
        weights: metric's name → a file or folder. A metric that needs weights and has none gives nulls with a reason.

    Raises:
        ConfigError: no such metric; weights for one that has none or is not asked for.
        ArtifactError: weights that are there and damaged.
    """
    weights = dict(weights or {})
    for what, given in (("metric", names), ("weights for", weights)):
        if unknown := sorted(set(given) - set(METRICS)):
            raise ConfigError(f"{what} {unknown[0]!r} is not known; choose of {', '.join(METRICS)}")
    chosen = [name for name in METRICS if name in names or not names]
    if idle := sorted(set(weights) - set(chosen)):
        raise ConfigError(f"weights for {idle[0]!r}, which is not measured; ask for the metric or leave them out")
    made = []
    for name in chosen:
        module, cls = METRICS[name]
        found = importlib.import_module(f"stepvideo.evaluation.metrics.{module}")
        made.append(getattr(found, cls)(weights.get(name, "")))
    return made
