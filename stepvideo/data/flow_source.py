"""Batches of flow matching from a plan's packs: T2I, T2VI and SFT (report section 4.3, 6.2.4, 8).

Legend: B samples of a micro-batch, f latent frames, z channels, h w latent sides.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from stepvideo.data.balance import Pack
from stepvideo.data.balance_config import check_ranks
from stepvideo.data.draw import rng
from stepvideo.data.flow_draws import Draws, gaussian, timesteps
from stepvideo.data.source import Batch
from stepvideo.data.text_cache import EMPTY, TextCache
from stepvideo.errors import ConfigError

Rows = list[tuple[int, int]]  # (index in the global batch, row of the set)


class Packs(Protocol):
    """What a source needs of `balance.Plan`."""

    def packs(self, step: int) -> Sequence[Pack]: ...


class SampleSet(Protocol):
    """What a source needs of `LatentSet` or `PixelSet`."""

    buckets: dict[str, np.ndarray]

    def id(self, i: int) -> str: ...
    def bucket(self, i: int) -> str: ...
    def shape(self, bucket: str) -> tuple[int, int, int, int]: ...
    def caption(self, i: int, kind: float, which: float, probabilities: Mapping[str, float]) -> int: ...
    def sample(self, i: int, eps: Tensor | None) -> tuple[int, dict[str, Tensor], list[tuple[str, str]]]: ...


@dataclass(frozen=True)
class Group:
    """Samples of one bucket: what a micro-batch is made of."""

    kind: str
    bucket: str
    rows: Rows


@dataclass
class FlowSource:
    """Deals a plan's packs to data-parallel ranks.

    A rank has a micro-batch of the videos of each of its packs, then one of the images of each, more if those are in
    several buckets; with `accumulate`, each is dealt further into so many. Ranks that have fewer than others get
    dummies of one sample with share 0, so that all compute equally many.

    A sample's index in the global batch, from which all its draws come, counts the videos of all packs in order, then
    the images. A micro-batch has x1 [B, f, z, h, w] (or what the set gives instead), x0 of the same shape, t [B], the
    DiT's text arguments, kind, bucket, ids, share, and `failed`: (clip id, reason) of clips that others stand in for.
    """

    videos: SampleSet | None
    images: SampleSet | None
    text: TextCache
    plan: Packs
    draws: Draws

    def micro_batches(self, step: int, rank: int, ranks: int, accumulate: int) -> list[Batch]:
        """See `source.Source`.

        Raises:
            ConfigError: the step's packs cannot be dealt evenly to the ranks.
        """
        dealt = self.dealt(step, rank, ranks, accumulate)
        total = sum(len(group.rows) for groups in dealt for group in groups)
        own = [self._batch(step, group, total) for group in dealt[rank]]
        return own + [self._dummy(step, total)] * (max(map(len, dealt)) - len(own))

    def dealt(self, step: int, rank: int, ranks: int, accumulate: int) -> list[list[Group]]:
        """What every rank has in `step`, before anything is read. Raises as `micro_batches`."""
        packs = self.plan.packs(step)
        check_ranks(len(packs), ranks)
        film, stills = self._film(packs), self._stills(packs)
        dealt = []
        for r in range(ranks):
            groups = [g for pack in [*film[r::ranks], *stills[r::ranks]] for g in pack]
            parts = [Group(g.kind, g.bucket, g.rows[j::accumulate]) for g in groups for j in range(accumulate)]
            dealt.append([part for part in parts if part.rows])
        return dealt

    def pack(self, step: int, number: int) -> list[Group]:
        """What one pack of a step holds: rank r of n computes those with number % n = r."""
        packs = self.plan.packs(step)
        return [*self._film(packs)[number], *self._stills(packs)[number]]

    def caption(self, step: int, i: int, kind: str, row: int) -> int:
        """Number of the caption that sample i of the global batch has."""
        draws = self.draws
        drop, what, which = rng(draws.seed, "caption", step, i).random(3)
        return EMPTY if drop < draws.drop_captions else self.of(kind).caption(row, what, which, draws.captions)

    def of(self, kind: str) -> SampleSet:
        """The set of videos, or that of images."""
        data = self.videos if kind == "video" else self.images
        assert data is not None
        return data

    def close(self) -> None:
        """Nothing more is asked for."""

    def _film(self, packs: Sequence[Pack]) -> list[list[Group]]:
        """The videos of every pack, which are of one bucket."""
        index, found = 0, []
        for pack in packs:
            rows = _of(self.videos, pack).buckets[pack.bucket][pack.videos].tolist() if pack.videos else []
            found.append([Group("video", pack.bucket, list(enumerate(rows, index)))])
            index += len(rows)
        return found

    def _stills(self, packs: Sequence[Pack]) -> list[list[Group]]:
        """The images of every pack, a group a bucket."""
        index, found = sum(len(p.videos) for p in packs), []
        for pack in packs:
            groups: dict[str, Rows] = {}
            for i, row in enumerate(pack.images, index):
                groups.setdefault(_of(self.images, pack).bucket(row), []).append((i, row))
            found.append([Group("image", bucket, rows) for bucket, rows in sorted(groups.items())])
            index += len(pack.images)
        return found

    def _batch(self, step: int, group: Group, total: int) -> Batch:
        draws, indices = self.draws, [i for i, _ in group.rows]
        shape = self.of(group.kind).shape(group.bucket)
        return {
            **self._read(step, group),
            "x0": torch.stack([gaussian(shape, draws.seed, "noise", step, i) for i in indices]),
            "t": timesteps(draws.timesteps, draws.seed, step, indices, total),
            "kind": group.kind,
            "bucket": group.bucket,
            "share": len(indices) / total,
        }

    def _read(self, step: int, group: Group) -> Batch:
        """What comes from the data: latents (or what they are made of), text, ids, failures."""
        data = self.of(group.kind)
        tensors, captions, ids, failed = [], [], [], []
        for i, asked in group.rows:
            row, sample, bad = data.sample(asked, self._eps(step, i, data.shape(group.bucket)))
            captions.append(self.caption(step, i, group.kind, row))
            tensors.append(sample)
            ids.append(data.id(row))
            failed += bad
        stacked = {name: torch.stack([s[name] for s in tensors]) for name in tensors[0]}
        return {**stacked, **self.text.batch(captions), "ids": ids, "failed": failed}

    def _eps(self, step: int, i: int, shape: Sequence[int]) -> Tensor | None:
        """Noise of the posterior of sample i."""
        return gaussian(shape, self.draws.seed, "posterior", step, i) if self.draws.sample_posterior else None

    def _dummy(self, step: int, total: int) -> Batch:
        """The cheapest sample there is; it does not count."""
        kind, data = ("video", self.videos) if self.images is None else ("image", self.images)
        assert data is not None
        bucket = min(data.buckets, key=lambda b: prod(data.shape(b)))
        return self._batch(step, Group(kind, bucket, [(0, int(data.buckets[bucket][0]))]), total) | {"share": 0.0}


def _of(data: SampleSet | None, pack: Pack) -> SampleSet:
    if data is None:
        raise ConfigError(f"the plan has a pack of bucket {pack.bucket} with samples of a kind that is not trained on")
    return data
