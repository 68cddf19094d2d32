"""Frames as a CLIP reads them: what transformers' CLIPImageProcessor does, without torchvision.

Legend: H W sides in pixels.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from stepvideo import storage
from stepvideo.errors import ArtifactError

FILE = "preprocessor_config.json"
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)  # of CLIP's training images
BICUBIC = 3  # PIL's number


@dataclass(frozen=True)
class Pixels:
    """Resize, crop the centre, scale, normalise.

    Attributes:
        size: of the shorter side (one number), or of both, (H, W).
        crop: (H, W), or None.
        resample: PIL's number of the filter.
    """

    size: int | tuple[int, int]
    crop: tuple[int, int] | None
    mean: tuple[float, ...] = MEAN
    std: tuple[float, ...] = STD
    scale: float = 1 / 255
    resample: int = BICUBIC

    @classmethod
    def of(cls, folder: Path, side: int) -> Pixels:
        """As `preprocessor_config.json` of a folder says, or for a network with frames of `side` if there is none.

        Raises:
            ArtifactError: the file says what no CLIP needs.
        """
        path = folder / FILE
        said = storage.read_json(path) if path.is_file() else {}
        try:
            return cls(
                size=_size(said.get("size", side)),
                crop=_both(said.get("crop_size", side)) if said.get("do_center_crop", True) else None,
                mean=tuple(said.get("image_mean", MEAN)),
                std=tuple(said.get("image_std", STD)),
                scale=said.get("rescale_factor", 1 / 255),
                resample=said.get("resample", BICUBIC),
            )
        except (KeyError, TypeError, AttributeError) as e:
            raise ArtifactError(f"{path} cannot be used: {e!r}; copy the one that belongs to the model") from e

    def __call__(self, frame: np.ndarray) -> np.ndarray:
        """uint8 [H, W, 3] BGR → float32 [3, H, W]."""
        from PIL import Image

        height, width = self._resized(*frame.shape[:2])
        image = Image.fromarray(np.ascontiguousarray(frame[..., ::-1])).resize((width, height), self.resample)
        pixels = np.asarray(image)
        if self.crop:
            y, x = (height - self.crop[0]) // 2, (width - self.crop[1]) // 2
            pixels = pixels[y : y + self.crop[0], x : x + self.crop[1]]
        scaled = pixels.astype(np.float32) * np.float32(self.scale)
        normal = (scaled - np.array(self.mean, np.float32)) / np.array(self.std, np.float32)
        return np.ascontiguousarray(normal.transpose(2, 0, 1))

    def _resized(self, height: int, width: int) -> tuple[int, int]:
        if not isinstance(self.size, int):
            return self.size
        longer = int(self.size * max(height, width) / min(height, width))
        return (self.size, longer) if height <= width else (longer, self.size)


def _size(said: Any) -> int | tuple[int, int]:
    if isinstance(said, int):
        return said
    return said["shortest_edge"] if "shortest_edge" in said else (said["height"], said["width"])


def _both(said: Any) -> tuple[int, int]:
    return (said, said) if isinstance(said, int) else (said["height"], said["width"])
