from __future__ import annotations

import numpy as np
import pytest

from stepvideo.curation.backends.light import Light
from stepvideo.curation.clip_frames import ClipFrames


def test_brightness_and_contrast_of_known_pictures() -> None:
    dark = np.full((40, 60, 3), 20, np.uint8)
    half = dark.copy()
    half[:, 30:] = 220
    found = Light()(ClipFrames.of("a", 4, [dark, dark, half, half], 25.0))
    assert found["brightness_mean"] == pytest.approx((20 + 20 + 120 + 120) / 4)
    assert (found["brightness_min"], found["brightness_max"]) == (20, 120)
    assert found["contrast"] == pytest.approx(50) and set(found) == set(Light.columns)
