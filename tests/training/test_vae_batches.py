"""What the Video-VAE is shown: clips and images, whole or as crops of where something is, split over ranks."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from stepvideo.training import vae, vae_frames
from stepvideo.training.config import VAETrainConfig

CLIPS = 24


@pytest.fixture
def frames(monkeypatch):
    """`frames(**config)`: grey clips of 64 px, each with one bright 8 px square somewhere."""
    video = np.full((CLIPS, vae_frames.FRAMES, 64, 64, 3), 120, np.uint8)
    for i, clip in enumerate(video):
        y, x = 7 * (i % 8), 6 * (i % 9)
        clip[:, y : y + 8, x : x + 8] = (250, 20, 20)
    monkeypatch.setattr(vae_frames, "windows", lambda *args: video)

    def build(**config):
        cfg = VAETrainConfig(vae=vae_config(), batch_size=2, **config)
        return vae_frames.ClipFrames(Path("anywhere"), [SimpleNamespace(clip_id=str(i)) for i in range(CLIPS)], cfg)

    return build


def shown(data, step, rank=0, ranks=1):
    return torch.cat([part["x"] for part in data.micro_batches(step, rank, ranks, 1)])


def vae_config():
    from stepvideo.models.config import VAEConfig

    return VAEConfig(enc_ch=8, dec_ch=8, num_groups=1, z_channels=8, dual_path=False)


def test_a_step_shows_clips_or_images_whole_or_cropped(frames):
    data = frames(image_share=0.5, images_per_clip=3, crop=32, crop_share=0.5, crops_per_clip=4, lengths=[17, 9])
    shapes = {tuple(shown(data, step).shape) for step in range(60)}
    whole = {(2, t, 3, s, s) for t in (17, 9) for s in (64, 48)} | {(6, 1, 3, s, s) for s in (64, 48)}
    assert shapes == whole | {(8, 17, 3, 32, 32), (8, 9, 3, 32, 32), (24, 1, 3, 32, 32)}


def test_crops_are_taken_where_something_is(frames):
    def share(tries: int) -> float:
        data = frames(image_share=0.0, crop=32, crop_share=1.0, crops_per_clip=4, crop_tries=tries)
        red = [(shown(data, step)[:, 0, 0] > 0.9).sum((1, 2)) for step in range(40)]
        return float((torch.cat(red) >= 32).float().mean())  # crops with at least half of the square

    assert share(6) > 0.7 > 0.45 > share(1)


def test_a_vae_goes_on_from_another():
    from stepvideo.errors import StepVideoError
    from stepvideo.models.config import VAEConfig
    from stepvideo.models.video_vae import VideoVAE

    dual = VAEConfig(enc_ch=8, dec_ch=8, num_groups=1, z_channels=8, dual_path=True, dual_path_ch=16)
    stage1, a, b = VideoVAE(vae_config()), VideoVAE(dual), VideoVAE(dual)
    fresh = vae.take_over(a, stage1)
    assert 0 < fresh < len(a.state_dict())
    assert vae.take_over(b, a) == 0
    assert all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True))
    with pytest.raises(StepVideoError, match="make them equal"):
        vae.take_over(VideoVAE(VAEConfig(**{**vars(dual), "z_channels": 4})), a)


def test_ranks_share_the_batch_of_one_process(frames):
    data = frames(image_share=0.3, crop=32, crop_share=0.5, crops_per_clip=2, crop_tries=3)
    for step in range(8):
        one = shown(data, step)
        halves = [shown(data, step, rank, 2) for rank in range(2)]
        assert torch.equal(one[0::2], halves[0]) and torch.equal(one[1::2], halves[1])


def test_a_step_of_clips_that_cannot_be_dealt_is_refused_in_a_step_of_images(frames):
    data = frames(image_share=0.999, images_per_clip=4)  # 8 images nearly always, else 2 clips
    assert len(data.micro_batches(0, 0, 2, 1)[0]["index"]) == 4
    with pytest.raises(ValueError, match="a batch of 2 samples cannot be dealt to 2 .* ranks x 2 micro-batches"):
        data.micro_batches(0, 0, 2, 2)
