"""How bright the picture is, and how much contrast it has."""

from __future__ import annotations

from typing import Any

import numpy as np

from stepvideo.curation.backends import Weightless
from stepvideo.curation.clip_frames import ClipFrames


class Light(Weightless):
    """Mean and spread of the grey level, over all of the clip's small grey frames."""

    version = "1"
    columns = {
        "brightness_mean": "double",  # 0 (black) to 255
        "brightness_min": "double",  # of the darkest and the brightest frame
        "brightness_max": "double",
        "contrast": "double",  # standard deviation of the grey level within a frame, mean over frames
    }
    note = "grey level of the 8-bit picture as decoded; it knows no exposure and no HDR"

    def __call__(self, clip: ClipFrames) -> dict[str, Any]:
        means = clip.grey.mean(axis=(1, 2), dtype=np.float64)
        spread = clip.grey.std(axis=(1, 2), dtype=np.float64)
        return {
            "brightness_mean": float(means.mean()),
            "brightness_min": float(means.min()),
            "brightness_max": float(means.max()),
            "contrast": float(spread.mean()),
        }
