"""A latents artifact as training reads it: its settings, its shards, which clips it holds and in which buckets.

Legend: f latent frames, z latent channels, h w latent sides.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from copy import copy
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from torch import Tensor

from stepvideo import storage
from stepvideo.data.clips import held_out, lot
from stepvideo.data.encoding import latents
from stepvideo.data.shards import Shards, shard_name
from stepvideo.diffusion.latent_stats import LatentStats
from stepvideo.errors import ArtifactError, StepVideoError

SETTINGS = "cache.json"
FORMAT = 2  # of the files; a cache of another one is refused
INDEX_COLUMNS = ("clip_id", "group", "bucket", "shard", "row")  # the others are kinds of captions


class LatentCache:
    """One latents artifact, in a folder or an object store.

    Attributes:
        settings: everything that it was made with (`cache.json`).
        shards: its tensors.

    Raises:
        ArtifactError: it is no such artifact, its format is another one, or a shard is missing or torn.
    """

    def __init__(self, root: str | Path, local: Path | None = None) -> None:
        self.root = root
        self.shards = Shards(root, local)
        self.settings: dict[str, Any] = storage.read_json(self.shards.file(SETTINGS))
        self.require(format=FORMAT)
        self.shards.check()

    def require(self, **wanted: Any) -> None:
        """Compare settings with what is asked for; of a mapping only the keys that are asked for.

        Raises:
            ArtifactError: names the setting, its value in the cache and the one asked for.
        """
        for name, value in wanted.items():
            have = self.settings.get(name)
            if isinstance(value, Mapping) and isinstance(have, Mapping):
                have = {k: have.get(k) for k in value}
            if have != value:
                raise ArtifactError(
                    f"the latent cache {self.root} was made with {name}={have}, this needs {name}={value}: encode the "
                    "clips again with that (stage `latents`), or change what asks for it"
                )

    def copy_at(self, root: str, local: Path | None = None) -> LatentCache:
        """The copy of this cache that is kept at `root`.

        Raises:
            ArtifactError: it holds something else.
            ConfigError: a URL without a local folder.
        """
        copy = LatentCache(root, local)
        if (copy.settings, copy.shards.index) != (self.settings, self.shards.index):
            raise ArtifactError(
                f"the latent cache {root} is not a copy of {self.root}, which the stage was planned with: upload that "
                "(its `out` folder), or leave runtime.latents_url empty"
            )
        return copy

    def require_model(self, root: Path) -> None:
        """Compare the statistics of a model's latents with this cache's.

        Raises:
            ArtifactError: the model was trained on latents that are normalised otherwise.
        """
        ours, known = self.stats(), LatentStats.read(root, self.settings["z_channels"])
        for name in ("mean_z", "std_z"):
            a, b = getattr(ours, name), getattr(known, name)
            if not torch.allclose(a, b, rtol=1e-4, atol=1e-5):
                at = int((a - b).abs().argmax())
                raise ArtifactError(
                    f"the latent cache {self.root} is normalised by another {name[:-2]} than the model {root} has "
                    f"(channel {at}: {float(a[at]):.6g}, {float(b[at]):.6g}): encode the clips with the model as `init`"
                )

    def shape(self, bucket: str) -> tuple[int, int, int, int]:
        """(f, z, h, w) of the latents of a bucket."""
        f, z, h, w = self.settings["buckets"][bucket]
        return f, z, h, w

    def stats(self) -> LatentStats:
        """What its latents are normalised by."""
        said = storage.read_json(self.shards.file("latent_stats.json"))
        return LatentStats(torch.tensor(said["mean"]), torch.tensor(said["std"]))


class ClipSet:
    """The clips of one subset, kind ("video" or "image") and resolution that are in a cache; row i is clip i.

    Attributes:
        buckets: name → rows, each in the subset's order.

    Args:
        ids: the subset; None: all that is cached.
        exclude: clips left out.

    Raises:
        StepVideoError: no clip is left, or the cache is not of the kind that is needed.
    """

    needs: Mapping[str, Any] = {}  # settings of the cache

    def __init__(
        self,
        cache: LatentCache | str | Path,
        kind: str,
        resolution: str,
        ids: Sequence[str] | None = None,
        exclude: Collection[str] = (),
    ) -> None:
        self.cache = cache if isinstance(cache, LatentCache) else LatentCache(cache)
        self.cache.require(**self.needs)
        self.kind, self.resolution = kind, resolution
        table = pq.read_table(self.cache.shards.file(f"{kind}_{resolution}.parquet")).combine_chunks()
        if ids is not None:
            at = _index_in(pa.array(ids, pa.string()), table["clip_id"].combine_chunks())
            table = table.take(at.drop_null())
        if exclude:
            table = table.filter(_index_in(table["clip_id"], pa.array(sorted(exclude))).is_null())
        if not len(table):
            what = "none of the subset's" if ids is not None else "none of the"
            raise StepVideoError(
                f"{what} {kind}s is in the latent cache {self.cache.root}, or all are excluded; curate and encode again"
            )
        self._hold(table)

    def _hold(self, table: pa.Table) -> None:
        self.table = table.combine_chunks()
        codes = self.table["bucket"].combine_chunks().dictionary_encode()
        self._names: list[str] = codes.dictionary.to_pylist()
        self._code = codes.indices.to_numpy()
        self.buckets = {name: np.flatnonzero(self._code == i) for i, name in enumerate(self._names)}
        self.kinds = [name for name in table.column_names if name not in INDEX_COLUMNS]

    def __len__(self) -> int:
        return len(self.table)

    def ids(self, bucket: str | None = None) -> list[str]:
        """Clip ids of a bucket, or of all rows."""
        column = self.table["clip_id"]
        return (column if bucket is None else column.take(pa.array(self.buckets[bucket]))).to_pylist()

    def id(self, i: int) -> str:
        return self.table["clip_id"][i].as_py()

    def bucket(self, i: int) -> str:
        return self._names[self._code[i]]

    def shape(self, bucket: str = "") -> tuple[int, int, int, int]:
        """(f, z, h, w) of the latents of a bucket; without one, of the only one there is."""
        if not bucket and len(self.buckets) > 1:
            raise ValueError(f"the {self.kind}s are in buckets {', '.join(self.buckets)}: say which one is meant")
        return self.cache.shape(bucket or self._names[0])

    def split(self, share: float) -> tuple[Self | None, Self | None]:
        """(to train on, held out): `clips.held_out` by clip; frames follow the clip that they are from."""
        out = np.array([held_out(group, share) for group in self.table["group"].to_pylist()])
        parts = []
        for mask in (~out, out):
            part = copy(self)
            if mask.any():
                part._hold(self.table.filter(pa.array(mask)))
            parts.append(part if mask.any() else None)
        return parts[0], parts[1]

    def weighted(self, weights: Mapping[str, float]) -> Self:
        """Every row as often as an epoch is to show its clip, in the same order.

        A weight of 1.5 is one row for half of such clips and two for the others, by their ids; none means 1.
        """
        if not weights:
            return self
        ids = self.ids()
        times = [int(weights.get(i, 1.0) + lot("weight", i)) for i in ids]
        part = copy(self)
        part._hold(self.table.take(pa.array(np.repeat(np.arange(len(ids)), times))))
        return part

    def caption(self, i: int, kind: float, which: float, probabilities: Mapping[str, float]) -> int:
        """Number of a caption of clip i: its kind by the probabilities (of those it has), then one of that kind.

        `kind` and `which` are uniform numbers in [0, 1).
        """
        have = {k: p for k, p in probabilities.items() if p and k in self.kinds and len(self.table[k][i])}
        if not have:
            wanted = ", ".join(k for k, p in probabilities.items() if p)
            raise StepVideoError(
                f"clip {self.id(i)} has no caption of kind {wanted}; give others a probability (`captions`)"
            )
        bounds = np.cumsum(list(have.values()))
        chosen = list(have)[int(np.searchsorted(bounds, kind * bounds[-1], side="right"))]
        numbers = self.table[chosen][i].as_py()
        return numbers[math.floor(which * len(numbers))]


class LatentSet(ClipSet):
    """Cached latents, read one at a time and normalised; posterior noise is the caller's."""

    needs = {"on_the_fly": False}

    @cached_property
    def stats(self) -> LatentStats:
        return self.cache.stats()

    def _hold(self, table: pa.Table) -> None:
        super()._hold(table)
        self._shard, self._row = (self.table[name].to_numpy() for name in ("shard", "row"))

    def latent(self, i: int, eps: Tensor | None = None) -> Tensor:
        """Latent i [f, z, h, w], float32, normalised; a posterior sample with `eps`, its mean without."""
        row = int(self._row[i])
        shard = shard_name(f"{self.kind}_{self.resolution}/{self.bucket(i)}", int(self._shard[i]))
        moments = self.cache.shards.read(shard, "moments", row, row + 1)
        return latents(moments, self.stats, eps if eps is None else eps[None])[0]

    def sample(self, i: int, eps: Tensor | None) -> tuple[int, dict[str, Tensor], list[tuple[str, str]]]:
        """(the row that was read, its tensors, clips that failed): here row i itself, and none failed."""
        return i, {"x1": self.latent(i, eps)}, []


def vae_digest(root: Path) -> str:
    """The setting "vae" of caches that the VAE of this model folder makes."""
    return storage.sampled_digest([Path(root) / "vae"])


def text_digest(root: Path) -> str:
    """The setting "text" of caches that the text encoders of this model folder make."""
    return storage.sampled_digest(Path(root) / name for name in ("step_llm", "hunyuan_clip"))


def _index_in(values: Any, known: pa.Array) -> Any:
    """The place of every value among the known ones; null where it is none of them."""
    return pc.index_in(values, value_set=known)  # pyright: ignore[reportAttributeAccessIssue]
