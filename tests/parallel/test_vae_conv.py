"""The Video-VAE divided inside a clip: everything equals one process, and each rank holds and sends little."""

from __future__ import annotations

import pytest
import torch
import vae_cases

DUAL, SINGLE = vae_cases.config(), vae_cases.config(dual_path=False)
JOINT = vae_cases.config(spatial_group_norm=False)
LONG = vae_cases.config(frame_len=0)

TABLE = [  # config, frames, (height, width), ranks of time, ranks of height
    pytest.param(DUAL, 17, (16, 32), 2, 1, id="time 2: 9 and 8 frames", marks=pytest.mark.soak),
    pytest.param(DUAL, 34, (16, 16), 3, 1, id="time 3: 1, 8 and 8 frames of two chunks"),
    pytest.param(DUAL, 17, (48, 16), 1, 2, id="height 2: 32 and 16 rows", marks=pytest.mark.soak),
    pytest.param(DUAL, 17, (48, 16), 2, 2, id="both"),
    pytest.param(DUAL, 1, (32, 48), 2, 2, id="both, an image"),
    pytest.param(DUAL, 18, (32, 16), 2, 1, id="time 2: the second chunk has one latent", marks=pytest.mark.soak),
    pytest.param(LONG, 33, (32, 16), 4, 1, id="time 4: one chunk of 5 latents"),
    pytest.param(SINGLE, 17, (8, 16), 3, 1, id="4x8x8, time 3", marks=pytest.mark.soak),
    pytest.param(SINGLE, 9, (24, 16), 1, 3, id="4x8x8, height 3"),
    pytest.param(JOINT, 17, (32, 16), 2, 2, id="joint GroupNorm, both"),
]


@pytest.mark.parametrize(("cfg", "frames", "side", "time", "height"), TABLE)
def test_moments_video_and_gradients_equal_one_process(ranks, cfg, frames, side, time, height):
    found = ranks(time * height, vae_cases.divided, cfg, frames, side, time, height)
    for gaps in found:
        assert max(gaps.values()) < 1e-9, max(gaps, key=gaps.get)


@pytest.mark.parametrize(("time", "height"), [(2, 1), (1, 2)])
def test_float32_stays_within_its_rounding(ranks, time, height):
    found = ranks(time * height, vae_cases.divided, DUAL, 17, (48, 16), time, height, torch.float32)
    assert max(gaps[k] for gaps in found for k in ("moments", "video")) < 1e-5


def test_a_rank_holds_its_share_and_sends_little(ranks):
    (_, whole, work), *_ = ranks(1, vae_cases.traffic, DUAL, 17, (96, 96), 1, 1)
    for time, height, share in ((2, 1, 0.65), (1, 2, 0.55), (2, 2, 0.4)):
        for sent, largest, own in ranks(time * height, vae_cases.traffic, DUAL, 17, (96, 96), time, height):
            assert largest < share * whole
            assert own < 1.35 * share * work
            assert sent < 0.4 * own  # two frames of nine, and a row on either side of 48; less of larger shares


def test_too_few_rows_are_named(ranks):
    said = ranks(3, vae_cases.refused, DUAL, (32, 32), 1, 3)
    assert all("3 ranks cannot share 2 rows of latents" in message for message in said)
