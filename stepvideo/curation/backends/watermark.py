"""Watermarks and other marks that lie over a moving picture (§7.1).

Legend: S sampled frames, h w sides of the reduced frames.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from stepvideo.curation.backends import Absent, Weightless, look_for
from stepvideo.curation.clip_frames import ClipFrames

COLUMNS = {"watermark": "double", "watermark_box": "list<int>"}  # score 0..1, flagged from 0.5; x, y, width, height

SIDE = 360  # shorter side of the frames, in pixels
WINDOW = 0.06  # height of the window in which a mark shows, in shorter sides; it is twice as wide
TEXTURE = 3.0  # grey levels a pixel; smaller gradients say nothing about motion
LEAST = 1.5  # corner strength, in grey levels a pixel, that a mark has at least
MIN_MOVING, MIN_DIFFERENT = 0.05, 3  # share of the picture, frames: with less that moves nothing can be told


class StaticOverlay(Weightless):
    """Corners that stay while the picture around them moves.

    The mean gradient over the frames, less its spread, is what stays. Along an edge that glides in its own direction
    something stays, too; so it is the smaller eigenvalue of the structure tensor that counts, as for corners. The
    strongest place is compared with what stays elsewhere and around it: in a still scene everything does.
    """

    version = "1"
    columns = COLUMNS
    note = (
        "a static-overlay detector without weights in place of the report's EfficientNet: titles and logos count as "
        "marks, moving or tiled marks are missed; null where too little of the picture moves to tell"
    )

    def __call__(self, clip: ClipFrames) -> dict[str, Any]:
        unknown = {"watermark": None, "watermark_box": None}
        if _different(clip.frames) < MIN_DIFFERENT:
            return unknown
        gradients = np.stack([_gradients(f) for f in clip.frames])  # [S, 2 directions, 3 channels, h, w]
        mean = gradients.mean(axis=0)
        spread = np.sqrt(np.square(gradients - mean).sum(axis=1).mean(axis=0))  # [3, h, w]
        size = np.sqrt(np.square(mean).sum(axis=0))
        texture = np.sqrt(np.square(gradients).sum(axis=1).mean(axis=0)).max(axis=0) > TEXTURE  # [h, w]
        stays = (size > 2 * spread).any(axis=0)
        if (texture & ~stays).mean() < MIN_MOVING:
            return unknown
        rest = mean * (np.maximum(size - 2 * spread, 0) / np.maximum(size, 1e-6))
        strength = _corners(rest)
        found, around = _strongest(strength)
        elsewhere = texture & ~found
        clutter = float(np.percentile(strength[elsewhere], 75)) if elsewhere.any() else 0.0
        ring = around & texture
        still = float(stays[ring].mean()) if ring.any() else 0.0
        ratio = float(strength.max()) * (1 - still) / (LEAST + 2 * clutter)
        score = ratio / (1 + ratio)
        return {"watermark": score, "watermark_box": _box(found, clip.frames[0]) if score >= 0.5 else None}


class EfficientNetWatermark:
    """An EfficientNet that classifies frames, from a folder in transformers' layout.

    The mark's class is the one whose label starts with "watermark", else the last of two; the score is its mean
    probability over the sampled frames.
    """

    version = "1"
    columns = COLUMNS
    note = "an EfficientNet classifier as in the report, with the weights that were given; it gives no box"

    @classmethod
    def needs(cls, weights: str = "") -> Sequence[Path]:
        folder = Path(weights)
        if not weights or not (folder / "config.json").is_file():
            raise Absent(
                f"watermark: no EfficientNet in {weights or 'weights (empty)'}; give a folder with config.json, "
                "model.safetensors and preprocessor_config.json"
            )
        look_for("transformers")
        return [folder]

    def __init__(self, weights: str = "") -> None:
        (folder,) = self.needs(weights)
        from transformers import EfficientNetForImageClassification
        from transformers.models.efficientnet.image_processing_pil_efficientnet import EfficientNetImageProcessorPil

        self._net = EfficientNetForImageClassification.from_pretrained(folder, local_files_only=True).eval()
        self._pixels = EfficientNetImageProcessorPil.from_pretrained(folder, local_files_only=True)
        labels: dict[int, str] = self._net.config.id2label  # type: ignore[assignment]
        named = [i for i, label in labels.items() if label.lower().startswith("watermark")]
        if len(named) != 1 and len(labels) != 2:
            raise ValueError(
                f"watermark: the labels of {folder} are {list(labels.values())}; call one of them watermark"
            )
        self._class = named[0] if len(named) == 1 else 1

    def __call__(self, clip: ClipFrames) -> dict[str, Any]:
        import torch

        frames = [np.ascontiguousarray(f[..., ::-1]) for f in clip.frames]
        with torch.inference_mode():
            logits = self._net(**self._pixels(frames, return_tensors="pt")).logits
        score = logits.float().softmax(dim=-1)[:, self._class].mean()
        return {"watermark": float(score), "watermark_box": None}


def _gradients(frame: np.ndarray) -> np.ndarray:
    """Smoothed gradients of a frame scaled down to `SIDE`, float32 [2, 3, h, w] in levels a pixel: directions and
    channels first, as numpy is slow along short last axes."""
    import cv2

    short = min(frame.shape[:2])
    if short > SIDE:
        size = (round(frame.shape[1] * SIDE / short), round(frame.shape[0] * SIDE / short))
        frame = cv2.resize(frame, size, interpolation=cv2.INTER_AREA)
    smooth = cv2.GaussianBlur(frame.astype(np.float32), (0, 0), 1)
    both = [cv2.Sobel(smooth, cv2.CV_32F, x, y, scale=1 / 8) for x, y in ((1, 0), (0, 1))]
    return np.stack([cv2.split(g) for g in both])


def _corners(gradient: np.ndarray) -> np.ndarray:
    """Root of the smaller eigenvalue of the structure tensor in a window, float32 [h, w], of [2, 3, h, w]."""
    import cv2

    gx, gy = gradient
    lines = max(3, round(WINDOW * min(gx.shape[1:])) | 1)
    parts = [(a * b).mean(axis=0) for a, b in ((gx, gx), (gx, gy), (gy, gy))]
    xx, xy, yy = (cv2.boxFilter(p, -1, (2 * lines + 1, lines)) for p in parts)
    smaller = (xx + yy) / 2 - np.sqrt(np.square((xx - yy) / 2) + np.square(xy))
    return np.sqrt(np.maximum(smaller, 0))


def _strongest(strength: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(the region of the strongest place, down to a third of its strength; the ring around it), bool [h, w]."""
    import cv2

    labels = cv2.connectedComponents((strength > strength.max() / 3).astype(np.uint8))[1]
    found = (labels == labels[np.unravel_index(strength.argmax(), strength.shape)]).astype(np.uint8)
    reach = 2 * max(3, round(WINDOW * min(strength.shape))) + 1
    ring = cv2.dilate(found, np.ones((reach, reach))) - cv2.dilate(found, np.ones((3, 3)))
    return found > 0, ring > 0


def _box(region: np.ndarray, frame: np.ndarray) -> list[int]:
    """x, y, width, height of a region, in pixels of the frame."""
    import cv2

    x, y, width, height = cv2.boundingRect(region.astype(np.uint8))
    scale = np.array(frame.shape[:2]) / region.shape
    return [round(v * s) for v, s in zip((x, y, width, height), (scale[1], scale[0]) * 2)]


def _different(frames: list[np.ndarray]) -> int:
    """How many of the frames differ from the last different one by more than two levels."""
    import cv2

    count, last = 0, None
    for frame in frames:
        small = cv2.resize(cv2.cvtColor(frame, cv2.COLOR_BGR2GRAY), (64, 36), interpolation=cv2.INTER_AREA)
        if last is None or cv2.absdiff(small, last).mean() > 2:
            count, last = count + 1, small
    return count
