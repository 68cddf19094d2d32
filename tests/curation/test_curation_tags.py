"""Tags against pictures whose answer is known."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from known_videos import shot

from stepvideo.curation import tags
from stepvideo.curation.config import BorderConfig, TagsConfig


def crop_of(video: np.ndarray) -> tags.Box | None:
    return tags.border_crop([tags.bright_shares(f, 24) for f in video], BorderConfig())


@pytest.mark.parametrize("box", [(0, 20, 160, 80), (24, 0, 112, 120), (16, 12, 128, 96), (0, 0, 150, 120)])
def test_black_borders_are_found_within_two_pixels(box: tags.Box) -> None:
    x, y, w, h = box
    video = np.zeros((6, 120, 160, 3), np.uint8)
    video[:, y : y + h, x : x + w] = shot(3, 6, height=h, width=w)
    noisy = video + np.random.default_rng(0).integers(0, 12, video.shape).astype(np.uint8) * (video < 240)
    found = crop_of(noisy)
    assert found is not None
    assert np.abs(np.subtract(found, box)).max() <= 2


def test_a_full_picture_has_no_border() -> None:
    assert crop_of(shot(3, 6, height=120, width=160)) is None


def test_a_small_thing_on_black_is_not_a_border() -> None:
    video = np.zeros((6, 64, 64, 3), np.uint8)
    for i, frame in enumerate(video):
        cv2.circle(frame, (20 + 4 * i, 32), 8, (250, 30, 30), -1)
    assert crop_of(video) is None


def test_a_black_video_has_no_border() -> None:
    assert crop_of(np.zeros((6, 64, 64, 3), np.uint8)) is None


def test_saturation_of_grey_and_pure_colour() -> None:
    assert tags.saturation(np.full((8, 8, 3), 90, np.uint8)) == 0
    assert tags.saturation(np.full((8, 8, 3), (255, 0, 0), np.uint8)) == 255


def test_blurring_lowers_the_sharpness_at_both_heights() -> None:
    sharp = shot(0, 1, height=480, width=640)[0]
    soft = cv2.GaussianBlur(sharp, (0, 0), 6)
    config = TagsConfig()
    (_, a, a_fixed), (_, b, b_fixed) = tags.scores(sharp, config), tags.scores(soft, config)
    assert a > 10 * b
    assert a_fixed > 4 * b_fixed


def moved(step: float, frames: int, size: int) -> np.ndarray:
    noise = np.random.default_rng(0).random((size, 4 * size, 3), dtype=np.float32)
    texture = cv2.normalize(cv2.GaussianBlur(noise, (0, 0), size / 40), None, 0, 255, cv2.NORM_MINMAX).astype(np.uint8)
    return np.stack([texture[:, round(i * step) : round(i * step) + size] for i in range(frames)])


def motion(video: np.ndarray, **options: int) -> dict[str, float | None]:
    meter = tags.MotionMeter(TagsConfig(**options), len(video), 25.0)
    for frame in video:
        meter.add(frame)
    return meter.tags()


def test_motion_is_the_speed_in_scaled_pixels() -> None:
    got = motion(moved(2, 10, 128))
    assert got["motion_mean"] == pytest.approx(2, rel=0.15)
    assert got["motion_rate"] == pytest.approx(50, rel=0.15)
    assert got["motion_min"] <= got["motion_mean"] <= got["motion_max"]
    twice = motion(moved(4, 10, 256))  # the same picture speed at twice the size
    assert twice["motion_mean"] == pytest.approx(2, rel=0.2)


def test_a_frozen_clip_and_a_still_have_none() -> None:
    frozen = motion(np.repeat(moved(0, 1, 64), 5, axis=0))
    assert frozen["motion_max"] < 0.01
    assert motion(moved(0, 1, 64)) == tags.NO_MOTION


def test_fewer_pairs_measure_the_same_steady_motion() -> None:
    video = moved(2, 30, 128)
    assert motion(video, motion_pairs=5)["motion_mean"] == pytest.approx(motion(video)["motion_mean"], rel=0.05)


@pytest.mark.parametrize(("frames", "samples"), [(1, 8), (5, 8), (8, 8), (100, 8), (17, 1)])
def test_samples_are_different_frames_spread_over_the_clip(frames: int, samples: int) -> None:
    got = tags.sample_positions(frames, samples)
    assert got == sorted(set(got))
    assert len(got) == min(frames, samples)
    assert 0 <= got[0] and got[-1] < frames
