"""What a study asks, of how many, and what is mixed in to check the answers (torch-free)."""

from __future__ import annotations

from dataclasses import dataclass, field

from stepvideo.preference.rules import Rules

KINDS = ("compare", "rate", "prefer", "label")
PAIRED = ("compare", "prefer")  # two videos an item

CHOICES = ("left", "right", "tie", "both_bad")


@dataclass
class MediaConfig:
    """The one form that every video of a study is given. Zeros are filled from the sources when a study is made.

    Attributes:
        height, width: pixels; 0: the smallest height and the smallest width of all sources. Others are cropped to it.
        fps: frames per second; 0: the lowest of all sources.
        frames: frames a video; 0: as many as the shortest source has.
        crf: x264's scale of quality, 0 lossless, 18 visually lossless.
        gop: frames between keyframes; short ones make single frames quick to reach.
    """

    height: int = 0
    width: int = 0
    fps: float = 0.0
    frames: int = 0
    crf: int = 16
    gop: int = 8

    def __post_init__(self) -> None:
        for name in ("height", "width", "fps", "frames"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ValueError(f"media.{name}={getattr(self, name)}: give a positive number, or 0 for the sources'")
        if self.height % 2 or self.width % 2:
            raise ValueError(f"media.height={self.height}, media.width={self.width}: h264 needs even sides")
        if not 0 <= self.crf <= 51:
            raise ValueError(f"media.crf={self.crf}: give 0 (lossless) to 51")
        if self.gop < 1:
            raise ValueError(f"media.gop={self.gop}: give 1 or more frames")


@dataclass
class StudyConfig:
    """A study.

    Attributes:
        kind: compare (two models, Metric-1), rate (Metric-2), prefer (two samples of one model), label (§7.2).
        seed: of every order and side, with the study's secret; both and the annotators the same, the same study.
        raters: votes that every item gets, each of another annotator.
        gold: share of an annotator's items with a known-bad side.
        aa: share of items that show one video twice.
        repeats: share of items that an annotator has seen before, sides swapped.
        practice: items at the beginning that do not count.
        repeat_gap: items between an item and its repeat, at least.
        lease_s: seconds after which an item that was given to somebody is given to others, too.
        must_watch: share of a video that must have played before a vote is taken.
        rules: by which votes and annotators are excluded.
        simulated: answered by simulated annotators, and by no others; all that is made of it says so.
    """

    kind: str = "compare"
    seed: int = 0
    raters: int = 3
    gold: float = 0.05
    aa: float = 0.05
    repeats: float = 0.05
    practice: int = 3
    repeat_gap: int = 5
    lease_s: float = 1800.0
    must_watch: float = 1.0
    media: MediaConfig = field(default_factory=MediaConfig)
    rules: Rules = field(default_factory=Rules)
    simulated: bool = False

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"kind={self.kind!r}: give one of {', '.join(KINDS)}")
        for name, least in (("raters", 1), ("practice", 0), ("repeat_gap", 1), ("seed", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name}={getattr(self, name)}: give {least} or more")
        for name in ("gold", "aa", "repeats"):
            if not 0 <= getattr(self, name) <= 0.3:
                raise ValueError(f"{name}={getattr(self, name)}: give a share from 0 to 0.3")
        if not 0 <= self.must_watch <= 1:
            raise ValueError(f"must_watch={self.must_watch}: give a share from 0 to 1")
        if self.lease_s < 1:
            raise ValueError(f"lease_s={self.lease_s}: give 1 second or more")

    @property
    def paired(self) -> bool:
        return self.kind in PAIRED
