"""Configuration of the stage `labels` (torch-free)."""

from __future__ import annotations

from dataclasses import dataclass, field

from stepvideo.config import Runtime, StageConfig


@dataclass
class LabelsRuntime(Runtime):
    """Where the table lies is not part of the key: what is in it is (`LabelsConfig.content`)."""

    path: str = ""


@dataclass
class LabelsConfig(StageConfig):
    """The `labels` stage: what people decided of clips, and the captions as they corrected them (§7.2)."""

    content: str = ""  # sha256 of the table
    runtime: LabelsRuntime = field(default_factory=LabelsRuntime)
