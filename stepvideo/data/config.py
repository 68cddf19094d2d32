"""Config of the latents stage (torch-free)."""

from __future__ import annotations

from dataclasses import dataclass, field

from stepvideo.config import StageConfig
from stepvideo.data.clips import CAPTION_KINDS, LANGUAGES


@dataclass
class LatentsConfig(StageConfig):
    """What is cached: VAE moments at two resolutions, embeddings of every caption."""

    resolutions: dict[str, int] = field(default_factory=lambda: {"low": 48, "high": 64})  # square pixels
    frames: int = 17  # of a training window, the middle one of the clip
    kinds: list[str] = field(default_factory=lambda: list(CAPTION_KINDS))
    languages: list[str] = field(default_factory=lambda: list(LANGUAGES))
    variants: int = 1  # paraphrases a kind and language; which ones is drawn for each clip
    max_clips: int = 0  # 0: all of the widest subset
    max_images: int = 0
    batch_size: int = 16
    text_batch_size: int = 256
    precision: str = "bf16-mixed"

    def __post_init__(self) -> None:
        if sorted(self.resolutions) != ["high", "low"]:
            raise ValueError(f"resolutions={dict(self.resolutions)} must name exactly low and high, in pixels")
        for name, known in (("kinds", CAPTION_KINDS), ("languages", LANGUAGES)):
            unknown = [v for v in getattr(self, name) if v not in known]
            if unknown or not getattr(self, name):
                raise ValueError(f"{name}={list(getattr(self, name))}: give some of {', '.join(known)}")
