"""Buckets: which one a clip goes to, and what a sample of one costs."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepvideo.data.balance_config import BucketConfig
from stepvideo.data.buckets import Bucket, bucket_of, buckets, sample_tflops, sample_tokens
from stepvideo.models.config import DiTConfig, VAEConfig

REPORT = buckets(BucketConfig())
TABLE_3 = {
    "204x256x256": 1717.20,
    "204x192x320": 1592.61,
    "136x256x256": 1079.85,
    "136x192x320": 1004.89,
    "68x256x256": 509.31,
    "68x192x320": 475.87,
    "1x256x256": 44.99,
}


def test_four_lengths_times_three_aspects():
    assert len(REPORT) == 12 and {b.frames for b in REPORT} == {1, 68, 136, 204}
    assert {b.height / b.width for b in REPORT} == {192 / 320, 320 / 192, 1.0}


@pytest.mark.parametrize(
    ("clip", "name"),
    [
        ((204, 1080, 1920), "204x192x320"),
        ((203, 1920, 1080), "136x320x192"),
        ((67, 720, 720), "1x256x256"),
        ((1, 400, 500), "1x256x256"),
        ((9999, 500, 400), "204x256x256"),
    ],
)
def test_the_longest_that_fits_and_the_closest_ratio(clip, name):
    frames, height, width = clip
    assert str(bucket_of(frames, height, width, REPORT)) == name


@given(st.integers(1, 400), st.integers(1, 4000), st.integers(1, 4000))
def test_no_other_bucket_is_longer_or_closer(frames, height, width):
    got = bucket_of(frames, height, width, REPORT)
    assert got.frames <= frames
    for b in REPORT:
        assert not got.frames < b.frames <= frames
        # ratio of ratios: how far one has to be stretched to become the other
        ours, theirs = ((height * c.width) / (width * c.height) for c in (got, b))
        assert max(ours, 1 / ours) <= max(theirs, 1 / theirs) + 1e-9


def test_a_clip_that_fits_none_is_an_error():
    videos = [b for b in REPORT if b.frames > 1]
    with pytest.raises(ValueError, match="67 frames fits no bucket.*68 frames.*add a length of 67 or less"):
        bucket_of(67, 256, 256, videos)
    with pytest.raises(ValueError, match="0x256 pixels"):
        bucket_of(68, 0, 256, REPORT)


def test_names():
    assert Bucket.parse("17x64x48") == Bucket(17, 64, 48) and str(Bucket(17, 64, 48)) == "17x64x48"
    for name in ("17x64", "x64x64", "17x64x0", "17x64x-2", "17 x64x64"):
        with pytest.raises(ValueError, match="is no bucket"):
            Bucket.parse(name)


@pytest.mark.parametrize("wrong", [{"lengths": []}, {"lengths": [17, 17]}, {"sizes": ["64"]}, {"lengths": [0]}])
def test_a_wrong_config_is_an_error(wrong):
    with pytest.raises(ValueError, match=f"{next(iter(wrong))}"):
        BucketConfig(**wrong)


@pytest.mark.parametrize("name", TABLE_3)
def test_cost_equals_table_3(name):
    cost = sample_tflops(Bucket.parse(name), DiTConfig(), VAEConfig(), text_len=256)
    assert cost == pytest.approx(TABLE_3[name], abs=0.008)


def test_tokens_of_the_longest_at_540p():
    assert sample_tokens(Bucket(204, 544, 992), DiTConfig(), VAEConfig()) == 75888  # 36 x 34 x 62
    with pytest.raises(ValueError, match="multiples of 16 pixels"):
        sample_tokens(Bucket(17, 64, 72), DiTConfig(), VAEConfig())
    with pytest.raises(ValueError, match="cannot be coded"):
        sample_tokens(Bucket(23, 64, 64), DiTConfig(), VAEConfig())
