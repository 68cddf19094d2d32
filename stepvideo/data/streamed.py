"""Training data that producers encode elsewhere and send over pipes (report §6.1): the batches are those of the cache.

The plan says which samples every step has, so nothing needs to be negotiated: ranks say which packs they want,
producers make them, and a rank puts them back in the plan's order by their index in the global batch. Noise, timesteps
and posterior samples are drawn here, as functions of (seed, step, index).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from math import prod
from typing import Any

import torch

from stepvideo.config import digest
from stepvideo.data.encoding import latents
from stepvideo.data.flow_source import FlowSource, Group
from stepvideo.data.inlet import Inlet
from stepvideo.data.source import Batch
from stepvideo.data.text_cache import text_arguments
from stepvideo.data.unit import Sample
from stepvideo.diffusion.latent_stats import LatentStats
from stepvideo.errors import StepVideoError


@dataclass
class StreamedSource(FlowSource):
    """A `FlowSource` whose latents and embeddings come through an `Inlet`, in this process: loaders have none to spare.

    Args:
        open_inlet: (data-parallel rank, of how many, packs of a step) → where its samples come from.
        digest: of the plan (`plan_digest`).
    """

    stats: LatentStats
    open_inlet: Callable[[int, int, int], Inlet]
    digest: str
    inlet: Inlet | None = None
    _samples: dict[int, Sample] = field(default_factory=dict)

    def micro_batches(self, step: int, rank: int, ranks: int, accumulate: int) -> list[Batch]:
        """See `source.Source`. Raises also as `Inlet.take`."""
        if self.inlet is None:
            self.inlet = self.open_inlet(rank, ranks, len(self.plan.packs(step)))
        self._samples = self.inlet.take(step)
        batches = super().micro_batches(step, rank, ranks, accumulate)
        self.inlet.passed(step)
        return batches

    def close(self) -> None:
        if self.inlet is not None:
            self.inlet.close()

    def _read(self, step: int, group: Group) -> Batch:
        data, shape = self.of(group.kind), self.of(group.kind).shape(group.bucket)
        found = [self._sample(i, group) for i, _ in group.rows]
        noise = [self._eps(step, i, shape) for i, _ in group.rows]
        x1 = [latents(s.moments[None], self.stats, e if e is None else e[None])[0] for s, e in zip(found, noise)]
        return {
            "x1": torch.stack(x1),
            **text_arguments([s.llm for s in found], [s.clip for s in found]),
            "ids": [data.id(s.row) for s in found],
            "failed": [bad for s in found for bad in s.failed],
        }

    def _sample(self, i: int, group: Group) -> Sample:
        sample = self._samples.get(i)
        if sample is None or (sample.kind, sample.bucket) != (group.kind, group.bucket):
            raise StepVideoError(f"producers sent another sample {i} than the plan has: all must run the same code")
        return sample

    def _dummy(self, step: int, total: int) -> Batch:
        """The cheapest sample that is here; it does not count."""
        i = min(self._samples, key=lambda i: prod(self._samples[i].moments.shape))
        s = self._samples[i]
        return self._batch(step, Group(s.kind, s.bucket, [(i, s.row)]), total) | {"share": 0.0}


def plan_digest(source: FlowSource, **also: Any) -> str:
    """Of all that says which samples a step has and what they hold: jobs of one digest can share producers."""
    sets = [
        s and {bucket: [s.id(int(i)) for i in rows] for bucket, rows in sorted(s.buckets.items())}
        for s in (source.videos, source.images)
    ]
    first = [vars(pack) for pack in source.plan.packs(0)]
    drawn = {"captions": dict(source.draws.captions), "drop": source.draws.drop_captions, "seed": source.draws.seed}
    return digest({"sets": sets, "first": first, **drawn, **also})[:16]
