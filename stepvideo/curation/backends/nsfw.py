"""NSFW score: LAION's CLIP-based detector (§7.1).

Its Keras network, in the names of the torch port that LAION-AI/CLIP-based-NSFW-Detector#7 publishes: `norm.mean` and
`norm.variance`, then `linear_1` to `linear_4` (ViT-L/14: 64, 512, 256, 1) or `linear_3` (ViT-B/32: 32, 32, 1), ReLU
between them and a sigmoid at the end.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from stepvideo.curation.backends.heads import layers, places, with_clip
from stepvideo.curation.clip_frames import ClipFrames
from stepvideo.errors import ArtifactError


class LAIONNSFW:
    """Maximum over the frames, 0 to 1: one frame makes a clip unfit.

    Args:
        weights: the head's file.
        clip: folder of the CLIP, if the head does not lie in it.
    """

    version: ClassVar[str] = "1"
    columns: ClassVar[dict[str, str]] = {"nsfw": "double"}
    note: ClassVar[str] = "LAION's NSFW detector on CLIP embeddings, maximum of the frames (report §7.1)"
    given: ClassVar[str] = "LAION's NSFW head, in the folder of its CLIP ViT-L/14"

    @classmethod
    def needs(cls, weights: str = "") -> Sequence[Path]:
        return places(weights, cls.given)

    def __init__(self, weights: str = "", clip: str = "") -> None:
        self.towers, state, path = with_clip(weights, clip, self.given)
        width = self.towers.model.config.projection_dim
        count = sum(name.startswith("linear_") and name.endswith(".weight") for name in state)
        self.layers = layers(state, [f"linear_{i + 1}." for i in range(count)], path, width)
        if any(state.get(f"norm.{name}", np.empty(0)).shape != (width,) for name in ("mean", "variance")):
            raise ArtifactError(
                f"{path}: norm.mean and norm.variance are no vectors of {width}; give LAION's torch port"
            )
        self.mean, self.std = state["norm.mean"], np.sqrt(state["norm.variance"])

    def __call__(self, clip: ClipFrames) -> dict[str, Any]:
        x = (self.towers.frames(clip) - self.mean) / self.std
        for weight, bias in self.layers[:-1]:
            x = np.maximum(x @ weight.T + bias, 0)
        weight, bias = self.layers[-1]
        logits = x @ weight.T + bias
        return {"nsfw": float((1 / (1 + np.exp(-logits.astype(np.float64)))).max())}
