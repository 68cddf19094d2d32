"""Aesthetic score: LAION's predictors on CLIP ViT-L/14 (§7.1).

Both published heads are chains of linear layers without anything between them: `layers.0, 2, 4, 6, 7` of
improved-aesthetic-predictor (dropout where the numbers jump), and one unnamed layer in LAION-Aesthetics V1.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from stepvideo.curation.backends.heads import layers, places, with_clip
from stepvideo.curation.clip_frames import ClipFrames

MLP, LINEAR = [f"layers.{i}." for i in (0, 2, 4, 6, 7)], [""]


class LAIONAesthetic:
    """Mean over the frames, about 1 to 10.

    Args:
        weights: the head's file.
        clip: folder of the CLIP, if the head does not lie in it.
    """

    version: ClassVar[str] = "1"
    columns: ClassVar[dict[str, str]] = {"aesthetic": "double"}
    note: ClassVar[str] = "LAION's aesthetic predictor on CLIP embeddings, mean of the frames (report §7.1)"
    given: ClassVar[str] = "LAION's aesthetic head, in the folder of its CLIP ViT-L/14"

    @classmethod
    def needs(cls, weights: str = "") -> Sequence[Path]:
        return places(weights, cls.given)

    def __init__(self, weights: str = "", clip: str = "") -> None:
        self.towers, state, path = with_clip(weights, clip, self.given)
        names = LINEAR if "weight" in state else MLP
        self.layers = layers(state, names, path, self.towers.model.config.projection_dim)

    def __call__(self, clip: ClipFrames) -> dict[str, Any]:
        x = self.towers.frames(clip)
        for weight, bias in self.layers:
            x = x @ weight.T + bias
        return {"aesthetic": float(x.mean())}
