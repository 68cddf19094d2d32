"""What was asked for becomes what the model can make, and says so."""

from __future__ import annotations

import pytest

from stepvideo.diffusion.sampling import Sampling
from stepvideo.errors import ConfigError, StepVideoError
from stepvideo.inference.settings import resolve
from stepvideo.models.config import VAEConfig


@pytest.mark.parametrize(
    ("frame_len", "asked", "made"),
    [(17, 204, 204), (17, 203, 187), (17, 16, 1), (17, 1, 1), (0, 204, 201), (0, 9, 9), (0, 8, 1), (0, 1, 1)],
)
def test_frames_are_floored_to_what_comes_back_whole(frame_len, asked, made):
    vae = VAEConfig(frame_len=frame_len)
    sampling, notices = resolve(Sampling(), vae, 16, frames=asked)
    assert sampling.frames == made
    assert notices == ([] if asked == made else [f"frames={asked} becomes {made}"])
    latents = vae.num_latents(made)
    per_chunk = vae.latent_len or latents
    assert made == sum(8 * n - 7 for n in [per_chunk] * (latents // per_chunk)) + (made == 1 and frame_len == 17)


@pytest.mark.parametrize(
    ("wanted", "error", "message"),
    [
        ({"height": 15}, StepVideoError, "height=15 is too small"),
        ({"steps": 0}, ConfigError, "steps=0"),
        ({"frames": -3}, ConfigError, "frames=-3"),
        ({"size": 3}, ConfigError, "sampling has no size"),
        ({"time_shift": 0.0}, ConfigError, "time_shift"),
    ],
)
def test_what_no_model_can_make(wanted, error, message):
    with pytest.raises(error, match=message):
        resolve(Sampling(), VAEConfig(), 16, **wanted)
