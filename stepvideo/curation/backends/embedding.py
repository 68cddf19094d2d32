"""Embedding of a clip, for clusters of concepts and near-duplicates (§7.1)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from stepvideo.curation.backends.clip_model import SmallTowers, Towers, local, released
from stepvideo.curation.clip_frames import ClipFrames


class ClipEmbedding:
    """The mean of the frames' unit vectors, brought to length 1, and the length that it had: 1 if all are the same.

    Args:
        weights: folder of a CLIP in transformers' layout, or `hub:OWNER/NAME`.
    """

    version: ClassVar[str] = "2"
    columns: ClassVar[dict[str, str]] = {"embedding": "list<float>", "embedding_length": "double"}
    note: ClassVar[str] = "mean CLIP embedding of the frames; stands in for the report's internal VideoCLIP (§7.1)"
    given: ClassVar[str] = "the folder of a CLIP (config.json and model.safetensors)"

    @classmethod
    def needs(cls, weights: str = "") -> Sequence[Path]:
        return [local(weights, cls.given)]

    def __init__(self, weights: str = "") -> None:
        self.towers = self._towers(*self.needs(weights))

    def __call__(self, clip: ClipFrames) -> dict[str, Any]:
        mean = self.towers.frames(clip).mean(0)
        length = np.linalg.norm(mean)
        return {"embedding": (mean / length).tolist(), "embedding_length": float(length)}

    def _towers(self, folder: Path) -> Towers:
        return released(folder)


class SmallEmbedding(ClipEmbedding):
    """The embedding of the small CLIP that the stage `text` trains.

    Args:
        weights: folder of an artifact of that stage, such as `weights/text` of the repository.
    """

    note: ClassVar[str] = "the project's own small CLIP, trained on rendered shapes: tells little apart in real clips"

    given: ClassVar[str] = "the folder of an artifact of the stage `text`, such as weights/text"

    def _towers(self, folder: Path) -> Towers:
        return SmallTowers(folder)
