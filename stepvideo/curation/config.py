"""Configuration of the stages raw, curate and subsets (torch-free). Every threshold has its name here."""

from __future__ import annotations

from dataclasses import dataclass, field

from stepvideo.config import Runtime, StageConfig
from stepvideo.data.caption_kinds import SOURCES

LEVELS = 6  # pre-training subsets s1 … s6 (§8, Table 6)


@dataclass
class RawRuntime(Runtime):
    """Where the raw folder is. Not part of the key: the same files in another place are the same artifact."""

    path: str = ""


@dataclass
class RawConfig(StageConfig):
    """The `raw` stage: a folder of videos and images as an artifact.

    `content` is `stepvideo.curation.raw.content_digest(folder)`, so that the key follows the files and not their place.
    """

    content: str = ""
    runtime: RawRuntime = field(default_factory=RawRuntime)


EXECUTORS = ("pool", "ray")


@dataclass
class PartsRuntime(Runtime):
    """Where the parts of a stage's work are done (`curation.parts`)."""

    executor: str = "pool"  # processes of this machine; or ray: tasks on a Ray cluster
    ray_address: str = ""  # host:port of a running cluster; empty: one of this machine, for as long as the job takes
    array: int = 0  # jobs that the parts are shared out to; 0: one job. Needs a launcher with a queue

    def __post_init__(self) -> None:
        if self.executor not in EXECUTORS:
            raise ValueError(f"runtime.executor is {self.executor!r}; give one of {', '.join(EXECUTORS)}")
        if self.ray_address and self.executor != "ray":
            raise ValueError(f"runtime.ray_address is {self.ray_address!r}; it needs runtime.executor=ray")
        if self.ray_address and not self.ray_address.rpartition(":")[2].isdigit():
            raise ValueError(f"runtime.ray_address is {self.ray_address!r}; give host:port")
        if self.array < 0:
            raise ValueError(f"runtime.array is {self.array}; give a number of jobs, or 0 for one")
        if self.array and self.nproc > 1:
            raise ValueError(f"runtime.array is {self.array} and runtime.nproc {self.nproc}; set one of them")


@dataclass
class HealthConfig:
    """Which files are sound enough to cut. The others go to quarantine with a reason.

    With `recover` a truncated or damaged file gives clips from its sound stretches: frames from damage to the next
    keyframe are left out, and no clip spans a gap. Off by default: a decoder does not see all damage (bits that still
    decode are flagged by nobody), and raw video is not scarce; turn it on where every source counts.
    """

    recover: bool = False

    max_bad_packets: int = 0  # packets that the decoder refuses
    max_corrupt_frames: int = 0  # frames that it gave, but patched up
    min_frame_share: float = 0.99  # decoded / expected, where the container counts its frames
    min_duration_share: float = 0.9  # the same where the count is only duration × rate (webm, ts)
    file_timeout_s: float = 900.0  # one file, all steps; a decoder that hangs is killed
    memory_limit_mb: int = 8192  # address space of a worker; 0: no limit

    def __post_init__(self) -> None:
        for name in ("min_frame_share", "min_duration_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"health.{name} is {getattr(self, name)}; give a share between 0 and 1")
        if self.file_timeout_s <= 0:
            raise ValueError(f"health.file_timeout_s is {self.file_timeout_s}; give seconds > 0")
        if 0 < self.memory_limit_mb < 512:
            raise ValueError(f"health.memory_limit_mb is {self.memory_limit_mb}; give at least 512, or 0 for no limit")


@dataclass
class SegmentConfig:
    """Where shots end (§7.1): proposals of PySceneDetect's AdaptiveDetector on tiny pictures, then checks on them.

    `benchmarks/segmentation.py` says how well they do, on clips that they were chosen on and on others.
    """

    # The detector proposes. Its own defaults (3 and 15) are for what it alone decides, and miss dark scenes.
    adaptive_threshold: float = 1.5
    min_content_val: float = 3.0
    window_width: int = 2
    # Hard cuts.
    min_step: float = 2.5  # change at a cut / mean change of the two frames before and after
    min_change: float = 0.4  # the same / contrast of the picture; two unlike pictures differ by about 1.1
    flash_frames: int = 6  # longest flash; the picture before and after it is one shot
    # Gradual transitions.
    straight: float = 0.8  # distance of first and last picture / length of the path between them; motion takes detours
    rest: float = 1.0  # motion before and after / mean speed of the transition
    min_way: float = 0.6  # distance of first and last picture / contrast
    alike: float = 0.5  # first and last picture that correlate more are one scene in another light
    blank: float = 1.5  # grey levels; pictures of less contrast are uniform, and fades end there
    # Clips.
    trim: int = 3  # frames dropped at each end of every clip (§7.1)
    min_frames: int = 17  # shorter clips are dropped; 17 is one VAE window

    def __post_init__(self) -> None:
        for name, least in (("window_width", 1), ("flash_frames", 0), ("trim", 0), ("min_frames", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"segment.{name} is {getattr(self, name)}; give {least} or more")
        if not 0 < self.straight <= 1:
            raise ValueError(f"segment.straight is {self.straight}; give a share above 0 and up to 1")


@dataclass
class BorderConfig:
    """Black borders. A line of pixels is border while no frame has more than `max_bright_share` of it above `limit`."""

    limit: int = 24  # grey level, 0 to 255; ffmpeg's cropdetect has the same default
    max_bright_share: float = 0.02  # compression noise and thin logos
    min_edge_share: float = 0.25  # the first line inside must be at least so bright, or it is a dark scene, no border
    min_size: int = 4  # pixels; narrower borders are left
    min_area: float = 0.25  # a crop that would keep less is not trusted

    def __post_init__(self) -> None:
        if not 0 <= self.limit <= 255:
            raise ValueError(f"border.limit is {self.limit}; give a grey level from 0 to 255")


@dataclass
class TagsConfig:
    """Measured tags (§7.1)."""

    samples: int = 8  # frames a clip, evenly spread, for saturation and blur
    blur_height: int = 360  # second blur score at min(native, this) lines, comparable across sizes
    motion_side: int = 128  # shorter side of the grey frames given to Farneback; smaller frames stay as they are
    motion_pairs: int = 0  # pairs of neighbouring frames a clip, evenly spread; 0: all

    def __post_init__(self) -> None:
        for name, least in (("samples", 1), ("blur_height", 16), ("motion_side", 16), ("motion_pairs", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"tags.{name} is {getattr(self, name)}; give {least} or more")


@dataclass
class EncodeConfig:
    """How cut clips are stored: h264 in mp4, one thread. A whole single-shot file is kept as it came."""

    crf: int = 10  # near-lossless
    preset: str = "superfast"  # half the time of "fast" for a quarter more bytes
    keep_source: bool = True  # False: encode every clip


@dataclass
class CurateConfig(StageConfig):
    """The `curate` stage: raw videos and images → catalog of tagged, captioned single-shot clips."""

    health: HealthConfig = field(default_factory=HealthConfig)
    segment: SegmentConfig = field(default_factory=SegmentConfig)
    border: BorderConfig = field(default_factory=BorderConfig)
    tags: TagsConfig = field(default_factory=TagsConfig)
    encode: EncodeConfig = field(default_factory=EncodeConfig)
    min_image_side: int = 32  # smaller stills are quarantined
    frames_per_clip: int = 1  # single frames taken from every clip for text-to-image training
    min_caption_overlap: float = 0.5  # share of a clip that a sidecar's shot must cover to lend it its captions
    title_from_filename: bool = True  # clips without a sidecar get the file's name as their title
    runtime: PartsRuntime = field(default_factory=PartsRuntime)

    def __post_init__(self) -> None:
        if self.frames_per_clip < 0:
            raise ValueError(f"frames_per_clip is {self.frames_per_clip}; give 0 or more")
        if not 0 <= self.min_caption_overlap <= 1:
            raise ValueError(f"min_caption_overlap is {self.min_caption_overlap}; give a share between 0 and 1")


@dataclass
class Filter:
    """One threshold that grows stricter from set to set.

    A clip stays if its `tag` is at least (`keep="above"`) or at most (`keep="below"`) the value of the level. With
    `quantile` the values are quantiles of the tag over all candidates: 0.1 with "above" drops the lowest tenth. A clip
    without the tag is dropped as soon as a level's value can drop anything.
    """

    tag: str = ""  # saturation_mean, blur, motion_mean, …, or frames, height, width, fps, caption_overlap
    keep: str = "above"
    values: list[float] = field(default_factory=list)  # one a set, each at least as strict as the one before
    quantile: bool = False

    def __post_init__(self) -> None:
        if self.keep not in ("above", "below"):
            raise ValueError(f"filter {self.tag}: keep is {self.keep!r}; give above or below")
        strict = self.values if self.keep == "above" else [-v for v in self.values]
        if strict != sorted(strict):
            raise ValueError(f"filter {self.tag}: values {self.values} must grow stricter from set to set")
        if self.quantile and any(not 0 <= v <= 1 for v in self.values):
            raise ValueError(f"filter {self.tag}: quantiles {self.values} must be between 0 and 1")

    @property
    def name(self) -> str:
        return f"{self.tag} {'≥' if self.keep == 'above' else '≤'}"


def _default_filters() -> list[Filter]:
    """Quantiles, so that they mean the same for any source; a profile may set absolute values instead."""
    return [
        Filter("caption_overlap", "above", [0.9] * LEVELS),
        Filter("blur_fixed", "above", [0.0, 0.02, 0.04, 0.07, 0.11, 0.16], quantile=True),
        Filter("saturation_mean", "above", [0.0, 0.01, 0.02, 0.04, 0.06, 0.09], quantile=True),
        Filter("motion_mean", "above", [0.01, 0.02, 0.04, 0.07, 0.11, 0.16], quantile=True),
        Filter("motion_max", "below", [1.0, 0.99, 0.98, 0.96, 0.94, 0.91], quantile=True),
        Filter("motion_min", "above", [0.0, 0.01, 0.02, 0.04, 0.06, 0.09], quantile=True),
    ]


@dataclass
class WrittenTextConfig:
    """Which share of images_2 has written text in it, by the table `text` of the stage `tags`."""

    share: float = 0.0  # 0: as it comes. Images of the other sort are left out until it holds
    least: float = 0.5  # share of the images that must be left; fewer is an error, unless allow_empty

    def __post_init__(self) -> None:
        for name in ("share", "least"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"written_text.{name} is {getattr(self, name)}; give a share between 0 and 1")


@dataclass
class SubsetsConfig(StageConfig):
    """The `subsets` stage: six nested pre-training subsets, SFT sets, and images for text-to-image (§7.2, §8)."""

    min_frames: int = 17  # shorter clips enter no video subset
    caption_sources: list[str] = field(
        default_factory=lambda: ["sidecar"]
    )  # also: vlm, rule (of the stage `captions`), filename (a title, nothing more), none (clips without captions)
    filters: list[Filter] = field(default_factory=_default_filters)  # in the order of the funnel
    image_filters: list[Filter] = field(default_factory=list)  # what images_2 keeps of images; one value each
    written_text: WrittenTextConfig = field(default_factory=WrittenTextConfig)  # of images_2
    duplicates: bool = False  # keep near-duplicates
    duplicate_bits: float = 4.0  # of 64 by which frames of near-duplicates differ, without the table concepts
    outliers: bool = False  # keep clips that are far from the centre of their concept
    images: bool = True  # stills with captions
    frames: bool = True  # single frames of the clips of s1
    allow_empty: bool = False  # subsets that the thresholds leave nothing for; else they are an error
    sft_sets: int = 2
    sft_from: int = LEVELS  # the subset that SFT draws from
    sft_share: float = 0.0  # 0: the sets are disjoint parts of it; else each is a random share of it

    def __post_init__(self) -> None:
        unknown = sorted(set(self.caption_sources) - {*SOURCES, "none"})
        if unknown or not self.caption_sources:
            raise ValueError(f"caption_sources is {self.caption_sources}; give some of {', '.join(SOURCES)}, none")
        if not 1 <= self.sft_from <= LEVELS:
            raise ValueError(f"sft_from is {self.sft_from}; give 1 to {LEVELS}")
        if self.sft_sets < 0 or not 0 <= self.sft_share <= 1:
            raise ValueError(f"sft_sets, sft_share are {self.sft_sets}, {self.sft_share}; give ≥ 0 and a share")
        if self.min_frames < 1:
            raise ValueError(f"min_frames is {self.min_frames}; give 1 or more")
        if not 0 <= self.duplicate_bits <= 32:
            raise ValueError(f"duplicate_bits is {self.duplicate_bits}; give 0 to 32: unlike pictures differ by 32")
        for name, filters, sets in (("filters", self.filters, LEVELS), ("image_filters", self.image_filters, 1)):
            for f in filters:
                if not f.tag:
                    raise ValueError(f"{name}: every filter needs a tag")
                if len(f.values) != sets:
                    raise ValueError(f"{name}: filter {f.tag}: {len(f.values)} values; give {sets}, one for each set")
