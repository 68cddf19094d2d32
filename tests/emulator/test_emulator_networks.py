"""Workloads count the same operations as the counter that training and balancing use."""

from __future__ import annotations

import pytest

from stepvideo.emulator.flops import flops
from stepvideo.emulator.networks import Decoder, Size, decoder_workload, dit_workload
from stepvideo.errors import ConfigError
from stepvideo.models.config import DiTConfig

TABLE_3 = {"204x256x256": 1717.20, "204x192x320": 1592.61, "136x192x320": 1004.89, "1x256x256": 44.99}
SIZE = Size(204, 544, 992)


@pytest.mark.parametrize("name", TABLE_3)
def test_layers_of_the_30b_model_cost_what_table_3_says(name):
    frames, height, width = map(int, name.split("x"))
    bucket = dit_workload(DiTConfig(), [Size(frames, height, width)]).buckets[0]
    assert 3 * 48 * bucket.layer.flops / 1e12 == pytest.approx(TABLE_3[name], abs=0.006)


@pytest.mark.parametrize(
    "variant",
    [{}, {"patch_size": 2}, {"attention": "spatial_temporal"}, {"block": "mmdit"}, {"use_additional_conditions": True}],
)
def test_every_form_of_the_dit_costs_what_the_shared_counter_says(variant):
    cfg = DiTConfig(4, 32, 4, 8, 6, caption_channels=[48, 24], **variant)
    work = dit_workload(cfg, [Size(34, 64, 96)], text=15, clip=5)
    assert work.flops == pytest.approx(3 * flops(cfg, 6, 4, 6, text_len=15, clip_len=5), rel=1e-12)


def test_a_stream_costs_the_mean_of_its_samples():
    video, image = Size(68, 192, 320, share=3), Size(1, 256, 256, share=1, samples=8)
    mixed = dit_workload(DiTConfig(), [video, image])
    one, other = (dit_workload(DiTConfig(), [s]).flops for s in (video, image))
    assert mixed.flops == pytest.approx((3 * one + 8 * other) / 11)


@pytest.mark.parametrize(
    ("stream", "said"),
    [
        ([], "stream is empty"),
        ([Size(204, 540, 992)], "204x540x992: height and width must be multiples of 16"),
        ([Size(25, 544, 992)], "25x544x992: a video of 25 frames cannot be coded"),
        ([Size(17, 64, 64, share=0)], "share=0"),
    ],
)
def test_streams_that_cannot_be_trained_on_are_refused(stream, said):
    with pytest.raises(ConfigError, match=said):
        dit_workload(DiTConfig(), stream)


def test_a_decoder_has_the_parameters_and_operations_of_its_kind():
    gpt = decoder_workload(Decoder(24, 2048, 16, 1024, vocabulary=50257, fused=False))
    assert gpt.network.parameters == pytest.approx(24 * 12 * 2048**2 + 50257 * 2048, rel=1e-3)
    assert gpt.buckets[0].layer.flops == 24 * 1024 * 2048**2 + 4 * 1024**2 * 2048
    llama = decoder_workload(Decoder(80, 8192, 64, 4096, vocabulary=128256, kv_heads=8, ffn=28672, gated=True))
    assert llama.network.parameters == pytest.approx(70.6e9, rel=0.01)
    with pytest.raises(ConfigError, match="heads=7 must divide hidden=2048"):
        decoder_workload(Decoder(24, 2048, 7, 1024, vocabulary=50257))
