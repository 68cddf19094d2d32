"""Enlarged copies and contact sheets."""

from __future__ import annotations

import numpy as np
import pytest

from stepvideo.data.show import contact_sheet, enlarge


def test_enlarge_repeats_pixels_by_a_whole_factor():
    video = np.random.default_rng(0).integers(0, 256, (3, 48, 64, 3), dtype=np.uint8)
    big = enlarge(video, 96)
    assert big.shape == (3, 96, 128, 3)
    assert np.array_equal(big[:, ::2, ::2], video) and np.array_equal(big[:, 1::2, 1::2], video)
    assert enlarge(video, 48) is not None and np.array_equal(enlarge(video, 48), video)
    assert enlarge(video[:, :31, :33], 20).shape == (3, 32, 34, 3)  # h264 wants even sides


def test_contact_sheet_has_a_row_a_video_first_frame_to_last():
    videos = [
        np.full((9, 32, 32, 3), 10 * i, np.uint8) + np.arange(9, dtype=np.uint8)[:, None, None, None] for i in (1, 2)
    ]
    sheet = contact_sheet(videos, columns=3, gap=2, min_side=32)
    assert sheet.shape == (66, 100, 3)
    assert [int(sheet[0, x, 0]) for x in (0, 34, 68)] == [10, 14, 18]
    assert int(sheet[34, 99, 0]) == 28 and int(sheet[33, 0, 0]) == 255
    with pytest.raises(ValueError, match="one size"):
        contact_sheet([videos[0], videos[1][:, :16]])
