"""Chunk-wise decoding is exact; tiles are blended without holes, and their error is measured."""

from __future__ import annotations

import pytest
import torch

from stepvideo.emulator.tracker import LiveBytes
from stepvideo.errors import ConfigError
from stepvideo.inference.memory.decode import _windows, decode, decode_chunks, seam_error, seam_mask
from stepvideo.models.config import VAEConfig
from stepvideo.models.video_vae import VideoVAE


@pytest.fixture(scope="module")
def vae():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return (
            VideoVAE(VAEConfig(z_channels=4, enc_ch=4, dec_ch=4, num_res_blocks=1, num_groups=4))
            .requires_grad_(False)
            .eval()
        )


def latents(frames, height, width, seed=0):
    return torch.randn(1, frames, 4, height, width, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("frames", [1, 3, 4, 9])
def test_chunks_equal_the_whole_decode_bit_for_bit(vae, frames):
    z = latents(frames, 2, 3)
    assert torch.equal(decode(vae, z), vae.decode(z))


def test_chunks_equal_it_in_bf16(vae):
    half, z = VideoVAE(vae.cfg).bfloat16().requires_grad_(False), latents(6, 2, 2).bfloat16()
    half.load_state_dict(vae.state_dict())
    assert torch.equal(decode(half, z), half.decode(z))


def test_memory_does_not_grow_with_the_chunks(vae):
    def peak(frames):
        with LiveBytes() as live:
            for chunk in decode_chunks(vae, latents(frames, 2, 2)):
                del chunk
        return live.peak

    assert peak(12) < 1.1 * peak(6)


@pytest.mark.parametrize(
    ("size", "tile", "overlap"), [(9, 4, 1), (10, 4, 2), (4, 8, 2), (7, 7, 3), (11, 3, 0), (5, 4, 2)]
)
def test_weights_of_tiles_sum_to_one(size, tile, overlap):
    total = torch.zeros(size * 16)
    for start, weights in _windows(size, tile, overlap, 16):
        assert 0 <= start and start * 16 + len(weights) <= len(total) and (weights >= 0).all()
        total[start * 16 : start * 16 + len(weights)] += weights
    torch.testing.assert_close(total, torch.ones_like(total))


def test_tiles_that_cover_the_frame_change_nothing(vae):
    z = latents(1, 4, 6)
    assert torch.equal(decode(vae, z, tile=96, overlap=16), vae.decode(z))


def test_tiles_cost_less_memory_and_differ_most_where_they_meet(vae):
    z = latents(1, 8, 8)
    peaks = []
    for tile in (0, 64):
        with LiveBytes() as live:
            out = decode(vae, z, tile, 32)
        peaks.append(live.peak)
        assert out.shape == (1, 1, 3, 128, 128)
    assert peaks[1] < 0.35 * peaks[0]
    error = seam_error(vae, z, 64, 32)
    assert 0 < error["elsewhere_mean"] <= error["elsewhere_max"] and 0 < error["seam_mean"] <= error["seam_max"]
    assert error["seam_max"] < 2 * vae.decode(z).abs().max()


def test_more_overlap_is_nearer_to_the_whole_decode(vae):
    z = latents(1, 8, 8)
    near, far = (seam_error(vae, z, 64, overlap)["seam_mean"] for overlap in (32, 16))
    assert near < far


def test_seams_lie_where_tiles_overlap(vae):
    mask = seam_mask(vae, 96, 64, tile=64, overlap=16)  # two tiles from 0 and 32 down, one across
    assert mask[32:64].all() and not mask[:32].any() and not mask[64:].any()


def test_sides_that_are_no_whole_latents_are_an_error(vae):
    with pytest.raises(ConfigError, match="vae_tile=70 must be a multiple of this VAE's 16"):
        decode(vae, latents(1, 8, 8), 70, 16)
