"""How producers feed a training job (torch-free)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass
class FeedConfig:
    """Of `runtime.data=streamed`. Memory of a rank: what `ahead` steps of it weigh, and `window_mb` on its way."""

    ahead: int = 4  # steps that a rank asks for before it needs them
    producers: int = 1  # that the driver starts beside a stage; 0: they are started otherwise, or another job's
    most: int = 1  # producers, when training waits for them; more than `producers` lets their number follow the rates
    folder: str = ""  # where jobs and producers meet; empty: the stage's own. Jobs of one plan may share one
    keep_mb: int = 1024  # of what it encoded a producer keeps so much: samples come again, jobs lag behind each other
    window_mb: int = 256  # sent by one producer, not acknowledged by a job
    lease_s: float = 5.0  # whoever says nothing for so long is dead, and others do its work
    timeout_s: float = 900.0  # training without a sample, or a producer without a job, gives up after so long
    bind: str = (
        ""  # where ranks listen, as tcp://10.0.0.7:0; empty: on this host only, or with `keys` on all interfaces
    )
    keys: str = ""  # file of keys of `stepvideo pipes keys`, needed as soon as nodes are several

    def __post_init__(self) -> None:
        for name in ("ahead", "keep_mb", "window_mb", "lease_s", "timeout_s"):
            if not getattr(self, name) > 0:
                raise ValueError(f"feed.{name}={getattr(self, name)} must be greater than 0")
        if self.producers < 0:
            raise ValueError(f"feed.producers={self.producers}: give 0 (none) or more")
        if self.most < self.producers:
            raise ValueError(f"feed.most={self.most} is below feed.producers={self.producers}: give as many, or more")


def feed_folder(folder: str, work: Path) -> Path:
    """Where a stage whose scratch is `work` meets its producers; `folder`: of its `FeedConfig`."""
    return Path(folder) if folder else work / "feed"
