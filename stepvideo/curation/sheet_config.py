"""Config of the stage `sheet` (torch-free)."""

from __future__ import annotations

from dataclasses import dataclass

from stepvideo.config import StageConfig


@dataclass
class SheetConfig(StageConfig):
    """The `sheet` stage: a contact sheet of a curated catalog, as a folder with a page that plays its clips."""

    clips: int = 96  # clips and stills that are shown; counts and histograms are of all
    seconds: float = 4.0  # of each that play
    side: int = 180  # pixels of the shorter side of what plays
    listed: int = 300  # rows of each list (files, quarantine)

    def __post_init__(self) -> None:
        for name, least in (("clips", 1), ("side", 16), ("listed", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name}={getattr(self, name)}: give {least} or more")
        if not self.seconds > 0:
            raise ValueError(f"seconds={self.seconds:g}: give more than 0")
