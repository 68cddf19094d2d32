"""Configs of buckets and of load balance (torch-free)."""

from __future__ import annotations

from dataclasses import dataclass, field

from stepvideo.errors import ConfigError

METHODS = ("none", "coarse", "uniform", "hybrid")


@dataclass
class BucketConfig:
    """Every length with every size makes a bucket (report section 8): four lengths, three aspects."""

    lengths: list[int] = field(default_factory=lambda: [1, 68, 136, 204])  # frames; 1: stills
    sizes: list[str] = field(default_factory=lambda: ["192x320", "320x192", "256x256"])  # height x width in pixels

    def __post_init__(self) -> None:
        for name, values in (("lengths", self.lengths), ("sizes", self.sizes)):
            if not values or len(set(values)) < len(values):
                raise ValueError(f"{name}={list(values)}: give at least one, and none twice")
        if min(self.lengths) < 1:
            raise ValueError(f"lengths={list(self.lengths)}: a video has 1 frame or more")
        for size in self.sizes:
            parts = size.split("x")
            if len(parts) != 2 or not all(p.isdecimal() and int(p) > 0 for p in parts):
                raise ValueError(f"sizes: {size!r} is no HEIGHTxWIDTH in pixels, for example 192x320")


@dataclass
class BalanceConfig:
    """How the videos and images of a global step are packed, so that ranks have equal work (report section 6.2.4).

    none     the same number of videos in every pack, images in packs of their own
    coarse   Eq. 12: the lighter a bucket's samples, the more of them in a pack; images in packs of their own
    uniform  Eq. 12, and every pack is padded with equally many images
    hybrid   Eq. 12, and each image pads the pack with the least work so far
    """

    method: str = "hybrid"
    packs: int = 1  # in a global step, dealt to the data-parallel ranks
    batch_size: int = 16  # videos in a pack of the heaviest bucket: its work is Eq. 12's F_target
    image_batch_size: int = 16  # images in a pack of images only: without videos, and in method none
    video_to_image: float = 0.0  # the report's beta, videos for each image in the long run; 0: no images beside videos
    alpha: float = 1.0  # Eq. 12; 0: solved for, so that a pack has `batch_size` videos on average (needs room above 1)
    spread: bool = True  # a bucket's packs come evenly over an epoch; False: at random
    max_tokens: int = 0  # video and image tokens that fit in a pack; 0: no limit

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise ValueError(f"balance.method={self.method!r} is not one of {', '.join(METHODS)}")
        for name in ("packs", "batch_size", "image_batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"balance.{name}={getattr(self, name)}: give 1 or more")
        for name in ("video_to_image", "max_tokens"):
            if getattr(self, name) < 0:
                raise ValueError(f"balance.{name}={getattr(self, name)}: give 0 (none) or more")
        if self.alpha and self.alpha < 1:
            raise ValueError(f"balance.alpha={self.alpha}: give 1 or more, or 0 to have it solved for")


def check_ranks(packs: int, ranks: int) -> None:
    """Pack p of a step belongs to data-parallel rank p % ranks, so that ranks have equally many.

    Raises:
        ConfigError: they cannot have.
    """
    if packs % ranks:
        more = -(-packs // ranks) * ranks
        raise ConfigError(
            f"balance.packs={packs}: {packs} packs a step cannot be dealt to {ranks} data-parallel ranks evenly; set "
            f"balance.packs to {more}, or use a number of ranks that divides {packs}"
        )
