"""Images of any size cover the video. That this equals the released preprocessing: tests/inference/test_parity.py."""

from __future__ import annotations

import pytest
import torch

from stepvideo.diffusion.image_condition import cover_crop


@pytest.mark.parametrize("size", [(50, 90), (90, 50), (64, 96), (31, 47), (200, 301)])
def test_cover_crop_always_gives_the_size(size):
    assert cover_crop(torch.rand(2, 3, *size), 64, 96).shape == (2, 3, 64, 96)
