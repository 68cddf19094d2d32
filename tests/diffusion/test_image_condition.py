"""Images of any size cover the video. That this equals the released preprocessing: tests/inference/test_parity.py."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from stepvideo.diffusion import image_condition
from stepvideo.diffusion.image_condition import cover_crop


@pytest.mark.parametrize("size", [(50, 90), (90, 50), (64, 96), (31, 47), (200, 301)])
def test_cover_crop_always_gives_the_size(size):
    assert cover_crop(torch.rand(2, 3, *size), 64, 96).shape == (2, 3, 64, 96)


@pytest.mark.parametrize("size", [(1, 20_000), (20_000, 1), (20, 801)])
def test_only_the_centre_of_a_panorama_is_resized(monkeypatch, size):
    """All of 1×20000 pixels, resized to cover 544×992, would take 70 GB."""
    image = torch.rand(1, 3, *size)
    resized: list[int] = []
    interpolate = image_condition.F.interpolate

    def watched(x: torch.Tensor, size: tuple[int, int], **options: Any) -> torch.Tensor:
        resized.append(size[0] * size[1])
        return interpolate(x, size=size, **options)

    monkeypatch.setattr(image_condition.F, "interpolate", watched)
    cropped = cover_crop(image, 64, 96)
    assert cropped.shape == (1, 3, 64, 96) and resized[0] < 20 * 64 * 96
    if max(size) < 1000:
        monkeypatch.setattr(image_condition, "FAR", 1000)  # nothing is left out
        torch.testing.assert_close(cropped, cover_crop(image, 64, 96), atol=5e-3, rtol=0)  # sizes round differently
