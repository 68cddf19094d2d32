"""Configuration of the procedural world (torch-free)."""

from __future__ import annotations

from dataclasses import dataclass, field

from stepvideo.config import StageConfig

BACKGROUNDS = ("plain", "gradient", "noise", "stripes", "checks")
LANGUAGES = ("zh", "en")
PIXEL_FORMATS = ("yuv444p", "yuv420p")
MIN_SIDE = 32  # below this the smallest triangle is under ten pixels wide and no oracle can read it

MAX_EVENT = 25  # frames of a hard scene: in a longer one a training window of 17 frames could miss the turn


@dataclass
class CodecConfig:
    """How frames become mp4: libx264 through PyAV, one thread, so that equal frames give equal bytes."""

    crf: int = 14  # 0 (lossless) … 51
    preset: str = "superfast"
    pix_fmt: str = "yuv444p"  # 4:2:0 halves the colour resolution, which costs shape at 48-64 px
    gop: int = 250

    def __post_init__(self) -> None:
        if not 0 <= self.crf <= 51:
            raise ValueError(f"codec.crf is {self.crf}; give 0 (lossless) to 51")
        if self.pix_fmt not in PIXEL_FORMATS:
            raise ValueError(f"codec.pix_fmt is {self.pix_fmt!r}; give one of {', '.join(PIXEL_FORMATS)}")


@dataclass
class RenderConfig(StageConfig):
    """The `render` stage: `n_clips` mp4 files and `still_fraction` × as many PNG images, with sidecars.

    Lengths are in units of the shorter side of the frame.
    """

    n_clips: int = 256
    size: int = 64  # height and width in pixels, unless overridden below
    height: int = 0  # 0: size
    width: int = 0  # 0: size
    frames: int = 25  # ≥ 23 leaves the 17 frames of one training window after the curation drops 3 at each end
    fps: int = 25
    backgrounds: list[str] = field(default_factory=lambda: list(BACKGROUNDS))
    drift: float = 0.5  # share of patterned backgrounds that change slowly
    speed_min: float = 0.22  # displacement over a 17-frame window; lowered only where a long path would leave the frame
    speed_max: float = 0.38
    two_object_fraction: float = 0.0  # scenes with two different objects, each of count one
    still_fraction: float = 0.0  # PNG images for text-to-image, as a share of n_clips, in addition to them
    hard_fraction: float = 0.0  # clips of action sequences, bouncing and falling (world.hard), in addition as well
    rare_rate: float = 1.0  # how often `attributes.rare_combinations` are seen, relative to the others
    captions_per_kind: int = 3  # paraphrases of each caption kind and language in the sidecar
    codec: CodecConfig = field(default_factory=CodecConfig)

    def __post_init__(self) -> None:
        if self.n_clips < 0:
            raise ValueError(f"n_clips is {self.n_clips}; give 0 or more")
        for name, side in (("height or size", self.h), ("width or size", self.w)):
            if side < MIN_SIDE or side % 2:
                raise ValueError(f"{name} is {side}; give an even number of pixels ≥ {MIN_SIDE}")
        if not 1 <= self.frames <= 1000:
            raise ValueError(f"frames is {self.frames}; give 1 to 1000")
        if self.fps < 1:
            raise ValueError(f"fps is {self.fps}; give 1 or more")
        unknown = [b for b in self.backgrounds if b not in BACKGROUNDS]
        if unknown or not self.backgrounds:
            raise ValueError(f"backgrounds is {self.backgrounds}; give some of {', '.join(BACKGROUNDS)}")
        if not 0 < self.speed_min <= self.speed_max <= 1:
            raise ValueError(
                f"speed_min, speed_max are {self.speed_min}, {self.speed_max}; give 0 < speed_min ≤ speed_max ≤ 1"
            )
        for name in ("drift", "two_object_fraction", "still_fraction", "hard_fraction", "rare_rate"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is {getattr(self, name)}; give a share between 0 and 1")
        if self.hard_fraction and not 9 <= self.frames <= MAX_EVENT:
            raise ValueError(
                f"hard_fraction with frames {self.frames}: give 9 to {MAX_EVENT} frames, so that every window of 17 "
                "shows the whole event, or hard_fraction=0"
            )
        if self.captions_per_kind < 1:
            raise ValueError(f"captions_per_kind is {self.captions_per_kind}; give 1 or more")

    @property
    def h(self) -> int:
        return self.height or self.size

    @property
    def w(self) -> int:
        return self.width or self.size
