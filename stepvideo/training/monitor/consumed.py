"""What a training consumed, for telemetry: every sample with its source, and how much that was."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path

from stepvideo.data.buckets import Bucket
from stepvideo.data.source import Batch
from stepvideo.data.sources import catalog_of, load_sources
from stepvideo.parallel.train import TrainParallel
from stepvideo.telemetry.recorder import OFF, AnyRecorder
from stepvideo.training.monitor.cost import Cost


class Consumption:
    """What training consumed, told once: by the first of the ranks that compute on the same samples."""

    def __init__(self, recorder: AnyRecorder, parallel: TrainParallel, inputs: Mapping[str, Path]) -> None:
        self.recorder, self.inputs = recorder, inputs
        self.tells = parallel.rank % (parallel.world_size // parallel.data_size) == 0

    @cached_property
    def sources(self) -> dict[str, str]:
        catalog = catalog_of(self.inputs)
        try:
            return load_sources(catalog) if catalog is not None else {}
        except (OSError, ValueError, KeyError) as e:  # no reason not to train either
            print(f"telemetry: {catalog}: no sources: {e}", file=sys.stderr)
            return {}

    def add(self, micro: Sequence[Batch], costs: Sequence[Cost]) -> None:
        """The samples of a step, and how many they and their tokens and operations are."""
        if not self.tells or self.recorder is OFF:
            return
        total = [0.0, 0.0, 0.0]
        for part, cost in zip(micro, costs, strict=True):
            if not part["share"]:
                continue
            size, kind = _shown(part)
            tokens = int(cost.tokens / cost.samples) if cost.samples else 0
            for clip in part["ids"]:
                self.recorder.sample(clip, self.sources.get(clip, ""), *size, tokens, kind)
            total = [a + b for a, b in zip(total, (cost.samples, cost.tokens, cost.flops), strict=True)]
        for name, value in zip(("samples", "tokens", "flops"), total, strict=True):
            self.recorder.count(name, value)


def _shown(part: Batch) -> tuple[tuple[int, int, int], str]:
    """Frames, height and width of each sample of a micro-batch, in pixels, and its kind; zeros and "" of a text."""
    if "bucket" in part:
        return Bucket.parse(part["bucket"]), part["kind"]
    if getattr(part.get("x"), "ndim", 0) == 5:  # of a VAE: [b, t, 3, h, w]
        _, frames, _, height, width = part["x"].shape
        return (frames, height, width), "image" if frames == 1 else "video"
    return (0, 0, 0), ""
