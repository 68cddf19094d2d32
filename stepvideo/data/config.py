"""Config of the latents stage (torch-free)."""

from __future__ import annotations

from dataclasses import dataclass, field

from stepvideo.config import StageConfig
from stepvideo.data.balance_config import BucketConfig
from stepvideo.data.caption_kinds import CAPTION_KINDS, LANGUAGES

RESOLUTIONS = ("low", "high")
POSITIONS_AT_ONCE = 2**24  # pixels of all frames of a chunk: one clip of 544x992, sixteen of 192x320


@dataclass
class LatentsConfig(StageConfig):
    """What is cached: VAE moments of every clip in its bucket at two resolutions, embeddings of every caption."""

    lengths: list[int] = field(default_factory=lambda: [17])  # frames of videos; a clip has the longest that it fills
    resolutions: dict[str, list[str]] = field(
        default_factory=lambda: {"low": ["48x48"], "high": ["64x64"]}
    )  # sizes, HEIGHTxWIDTH in pixels; a clip has the one of the closest ratio
    kinds: list[str] = field(default_factory=lambda: list(CAPTION_KINDS))
    languages: list[str] = field(default_factory=lambda: list(LANGUAGES))
    variants: int = 1  # paraphrases a kind and language; which ones is drawn for each clip
    max_clips: int = 0  # 0: all of the widest subset
    max_images: int = 0
    batch_size: int = 16  # clips of the shortest length that are encoded at once; longer ones fewer, images more
    text_batch_size: int = 256
    shard_mb: int = 256  # a shard is closed when it has so many megabytes
    max_failed: float = 0.05  # share of clips that may fail to decode; they are left out and reported
    on_the_fly: bool = False  # cache no moments, only buckets and text: training encodes the clips itself
    stats_clips: int = 256  # clips of each bucket that the statistics come from, if encoded on the fly
    precision: str = "bf16-mixed"

    def __post_init__(self) -> None:
        if sorted(self.resolutions) != sorted(RESOLUTIONS):
            raise ValueError(f"resolutions={dict(self.resolutions)} must name exactly low and high")
        for sizes in self.resolutions.values():
            BucketConfig(list(self.lengths), list(sizes))
        if 1 in self.lengths:
            raise ValueError(f"lengths={list(self.lengths)}: 1 is the length of images, which are there anyway")
        for name, known in (("kinds", CAPTION_KINDS), ("languages", LANGUAGES)):
            unknown = [v for v in getattr(self, name) if v not in known]
            if unknown or not getattr(self, name):
                raise ValueError(f"{name}={list(getattr(self, name))}: give some of {', '.join(known)}")
        for name in ("batch_size", "text_batch_size", "shard_mb", "stats_clips"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}: give 1 or more")
        if not 0 <= self.max_failed < 1:
            raise ValueError(f"max_failed={self.max_failed} must lie in [0, 1)")

    def clips_in_batch(self, frames: int, height: int, width: int, chunk: int) -> int:
        """Clips of a bucket that a VAE with such chunks encodes in one call. Rounding depends on it, hence a clip that
        cannot be decoded leaves its place empty; latents that are encoded when they are asked for keep to it."""
        return max(1, min(self.batch_size * min(self.lengths) // frames, clips_at_once(frames, height, width, chunk)))


def clips_at_once(frames: int, height: int, width: int, chunk: int) -> int:
    """How many clips a VAE with chunks of so many frames (0: no chunks) encodes in one call."""
    return max(1, POSITIONS_AT_ONCE // (min(frames, chunk or frames) * height * width))
