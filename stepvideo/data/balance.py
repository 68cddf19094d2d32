"""Load balance over data-parallel ranks (report section 6.2.4, Figure 8): which samples make up a global step.

A pack is what one rank computes in one go: videos of one bucket, and the images that it is padded with. First the batch
sizes of the buckets are chosen so that packs cost about the same (Eq. 12), then images fill what differences remain.

Everything is a function of (seed, step): nothing to save, and any step is found at once. An epoch has every video
exactly once; buckets come in proportion to their data, spread over the epoch. Images go through epochs of their own.
Every step has the same number of images (to within one), whatever its videos: the ratio then holds in the long run, and
steps with few videos, which have the most room, do not get the fewest images.
"""

from __future__ import annotations

import heapq
from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from itertools import accumulate
from math import ceil

import numpy as np

from stepvideo.data.balance_config import BalanceConfig
from stepvideo.data.balance_sizes import batches, eq12, mean_size, solve_alpha, within_memory
from stepvideo.data.draw import Epochs, SpreadEpochs
from stepvideo.errors import ConfigError


@dataclass(frozen=True)
class Pack:
    """Rows of a bucket's videos and of the image set. `bucket` is the images' in a pack without videos."""

    bucket: str
    videos: list[int]
    images: list[int]


class Plan:
    """The packs of every step of a run.

    `batch_sizes`: videos in a pack of each bucket (a bucket's last pack of an epoch may have fewer); `image_batch`:
    images in a pack of images only; `epoch_packs`: packs with videos in an epoch of the videos; `notes`: what a person
    should know about these numbers.

    Args:
        flops: training cost of one sample, in any unit, of each bucket in `sizes` and, if there are images, of the one
            further bucket that they are in.
        sizes: number of videos in each bucket; none at all if there are only images.
        images: number of images.
        tokens: of one sample, for the same buckets as `flops`; needed with `cfg.max_tokens`.

    Raises:
        ConfigError: a bucket is empty, or what is asked for does not fit.
    """

    def __init__(
        self,
        flops: Mapping[str, float],
        sizes: Mapping[str, int],
        images: int,
        cfg: BalanceConfig,
        seed: int,
        tokens: Mapping[str, int] | None = None,
    ) -> None:
        self.cfg, self.flops, self.sizes = cfg, dict(flops), dict(sorted(sizes.items()))
        self.notes: list[str] = []
        self._check(images)
        self.image_bucket = self._image_bucket() if images else ""
        self._tokens = dict(tokens or {})
        self._choose_sizes()

        counts = list(batches(self.sizes, self.batch_sizes).values())
        self.epoch_packs = sum(counts)
        self._starts = [0, *accumulate(counts)]  # numbers of the buckets' first batches before shuffling
        key = (seed, "batches")
        self._batches = SpreadEpochs(counts, *key) if cfg.spread else Epochs(self.epoch_packs, *key)
        self._videos = [Epochs(n, seed, "videos", b) for b, n in self.sizes.items()]
        self._images = Epochs(images, seed, "images")

    def packs(self, step: int) -> list[Pack]:
        """The packs of a global step, always `cfg.packs` of them."""
        first = step * self.cfg.packs
        packs = [self._pack(g) for g in range(first, first + self.cfg.packs)]
        before, after = (int(s * self.cfg.packs * self._padding) for s in (step, step + 1))
        for image, pack in zip(self._images.rows(before, after), self._places(packs, after - before)):
            packs[pack].images.append(image)
        return packs

    def samples(self, steps: int) -> int:
        """Videos and images of the first `steps` steps, without going through them."""
        packs = steps * self.cfg.packs
        apart = int(packs * self._apart)
        images = apart * self.image_batch + int(packs * self._padding)
        if not self.sizes:
            return images
        epochs, rest = divmod(packs - apart, self.epoch_packs)
        begun = sum(len(self._rows(epochs, place)[1]) for place in range(rest))
        return epochs * sum(self.sizes.values()) + begun + images

    def cost(self, pack: Pack) -> float:
        """What a pack costs, in the unit of `flops`."""
        images = len(pack.images) * self.flops[self.image_bucket] if pack.images else 0.0
        return len(pack.videos) * self.flops[pack.bucket] + images

    # ------------------------------------------------------------------------------------------------- what is chosen

    def _check(self, images: int) -> None:
        if not self.sizes and not images:
            raise ConfigError("there is nothing to train on: no bucket of videos and no image")
        unknown = [b for b in self.sizes if not self.flops.get(b, 0) > 0]
        if unknown:
            raise ConfigError(f"the cost of a sample of bucket {unknown[0]} is not given; known: {sorted(self.flops)}")
        empty = [b for b, n in self.sizes.items() if n < 1]
        if empty:
            full = ", ".join(f"{b}: {n}" for b, n in self.sizes.items() if n > 0) or "no videos at all"
            raise ConfigError(
                f"no clip is in bucket {', '.join(empty)} (there are {full}): leave that length or size out, or take a "
                "wider subset of clips"
            )
        if self.sizes and self.cfg.video_to_image and not images:
            raise ConfigError(
                f"balance.video_to_image={self.cfg.video_to_image} asks for images and there is none: set it to 0, or "
                "give images"
            )

    def _image_bucket(self) -> str:
        rest = [b for b in self.flops if b not in self.sizes]
        if len(rest) != 1:
            raise ConfigError(f"flops must name one bucket beside the videos', that of the images; it names {rest}")
        return rest[0]

    def _choose_sizes(self) -> None:
        cfg = self.cfg
        videos = {b: self.flops[b] for b in self.sizes}
        target = cfg.batch_size * max(videos.values(), default=0.0)
        alpha = cfg.alpha or (solve_alpha(videos, target, self.sizes, cfg.batch_size) if videos else 1.0)
        self.image_batch = cfg.image_batch_size
        if cfg.method == "none":
            self.batch_sizes = dict.fromkeys(self.sizes, cfg.batch_size)
        else:
            self.batch_sizes = eq12(videos, target, alpha)
            self._note_sizes(target, alpha)
            if videos and self.image_bucket:
                self.image_batch = eq12({"": self.flops[self.image_bucket]}, target, alpha)[""]
        self._set_rates()
        if cfg.max_tokens:
            self._fit()
            self._set_rates()

    def _set_rates(self) -> None:
        """`_padding`: images for each pack of videos; `_apart`: the share of packs that hold images only.

        Both are exact fractions, so that no rounding builds up in a long run.
        """
        self._padding, self._apart = Fraction(0), Fraction(not self.sizes)
        if self.sizes and self.cfg.video_to_image:
            total = sum(batches(self.sizes, self.batch_sizes).values())
            rate = Fraction(sum(self.sizes.values()), total) / Fraction(self.cfg.video_to_image)
            if self.cfg.method in ("uniform", "hybrid"):
                self._padding = rate
            else:
                self._apart = rate / (rate + self.image_batch)

    def _fit(self) -> None:
        limit, tokens, asked = self.cfg.max_tokens, self._tokens, self.cfg.batch_size
        missing = [b for b in (*self.sizes, self.image_bucket) if b and b not in tokens]
        if missing:
            raise ConfigError(f"balance.max_tokens={limit} needs the tokens of a sample of {', '.join(missing)}")
        # With room for its even share in every pack, there is room for all images of a step, however they are placed.
        reserve = ceil(self._padding) * tokens[self.image_bucket] if self._padding else 0
        cut = within_memory(self.batch_sizes, tokens, limit, reserve, asked)
        self.notes += [
            f"{b}: {cut[b]} samples a pack instead of {n}, to stay within {limit} tokens"
            for b, n in self.batch_sizes.items()
            if cut[b] < n
        ]
        self.batch_sizes = cut
        if self._apart:
            asked = 1 if self.sizes and self.cfg.method == "coarse" else self.cfg.image_batch_size
            images = within_memory({self.image_bucket: self.image_batch}, tokens, limit, 0, asked)
            self.image_batch = images[self.image_bucket]

    def _note_sizes(self, target: float, alpha: float) -> None:
        if self.sizes and not self.cfg.alpha:
            mean = mean_size(self.sizes, self.batch_sizes)
            self.notes.append(
                f"alpha={alpha:.4g}: {mean:.2f} videos a pack on average, {self.cfg.batch_size} asked for"
            )
        for b in self.sizes:
            over = alpha * self.flops[b] / target
            if over > 1 + 1e-9:
                self.notes.append(
                    f"{b}: one sample costs {over:.2f} times the target of a pack; its packs take longest"
                )

    # --------------------------------------------------------------------------------------------- what makes up a step

    def _pack(self, g: int) -> Pack:
        """Pack number `g` of the run, without its padding."""
        apart = int(g * self._apart)  # packs of images only before it
        if int((g + 1) * self._apart) > apart:
            return Pack(
                self.image_bucket, [], self._images.rows(apart * self.image_batch, (apart + 1) * self.image_batch)
            )
        bucket, videos = self._rows(*divmod(g - apart, self.epoch_packs))
        return Pack(bucket, videos.tolist(), [])

    def _rows(self, epoch: int, place: int) -> tuple[str, np.ndarray]:
        """Bucket and rows of the pack of videos at a place in an epoch."""
        batch = int(self._batches.order(epoch)[place])
        i = bisect_right(self._starts, batch) - 1
        bucket = list(self.sizes)[i]
        size, number = self.batch_sizes[bucket], batch - self._starts[i]
        return bucket, self._videos[i].order(epoch)[number * size : (number + 1) * size]

    def _places(self, packs: list[Pack], n: int) -> list[int]:
        """The pack of each of `n` images: the one of the least cost so far that has room, or each in turn (uniform)."""
        if self.cfg.method == "uniform" or not n:
            return [i % len(packs) for i in range(n)]
        heap = [(self.cost(p), i, room) for i, p in enumerate(packs) if (room := self._room(p, n))]
        heapq.heapify(heap)
        places = []
        for _ in range(n):
            cost, i, room = heap[0]
            places.append(i)
            if room > 1:
                heapq.heapreplace(heap, (cost + self.flops[self.image_bucket], i, room - 1))
            else:
                heapq.heappop(heap)
        return places

    def _room(self, pack: Pack, most: int) -> int:
        """Images that fit beside a pack's videos."""
        if not self.cfg.max_tokens:
            return most
        left = self.cfg.max_tokens - len(pack.videos) * self._tokens[pack.bucket]
        return left // self._tokens[self.image_bucket]
