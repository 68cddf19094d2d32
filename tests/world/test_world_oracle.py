"""The oracle against ground truth, blur, noise, codecs, scale and nonsense."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from stepvideo.world import media
from stepvideo.world.attributes import NAMES, all_combinations, held_out_combinations, train_combinations
from stepvideo.world.config import CodecConfig, RenderConfig
from stepvideo.world.oracle import fidelity, gate, read, score
from stepvideo.world.render import render

GRID = all_combinations()


def _truth(n, size, edit=lambda v, rng: v, frames=17):
    rng = np.random.default_rng(11)
    cfg = RenderConfig(size=size, frames=frames)
    attrs = [GRID[i] for i in rng.integers(len(GRID), size=n)]
    return [edit(render(a, [3, i], cfg, allow_held_out=True), rng) for i, a in enumerate(attrs)], attrs


def _blur(sigma):
    return lambda v, rng: np.stack([cv2.GaussianBlur(f, (0, 0), sigma) for f in v])


def _noise(sigma):
    return lambda v, rng: np.clip(v + rng.normal(0, sigma, v.shape), 0, 255).astype(np.uint8)


@pytest.mark.parametrize(("size", "n"), [(48, 200), (64, 200), (96, 100)])
def test_ground_truth_passes_the_gate(size, n):
    rows = gate(*_truth(n, size), bar=0.995)
    assert all(rows[k].ok and rows[k].n == n for k in NAMES), rows


@pytest.mark.parametrize(("edit", "bar"), [(_blur(1.5), 0.97), (_noise(10), 0.97)])
def test_blur_and_noise_are_survived(edit, bar):
    rows = gate(*_truth(120, 64, edit), bar=bar)
    assert all(r.ok for r in rows.values()), rows


@pytest.mark.parametrize("pix_fmt", ["yuv444p", "yuv420p"])
def test_mp4_round_trip_is_survived(tmp_path, pix_fmt):
    def through(v, rng):
        media.write_mp4(tmp_path / "x.mp4", v, 25, CodecConfig(pix_fmt=pix_fmt))
        return media.decode_mp4(tmp_path / "x.mp4")

    rows = gate(*_truth(60, 64, through), bar=0.98)
    assert all(r.ok for r in rows.values()), rows


def test_two_frames_and_floats_suffice():
    videos, attrs = _truth(40, 64)
    for v, a in zip(videos, attrs, strict=True):
        assert score(read(v[[0, -1]].astype(np.float32) / 255), a)["all"]


def test_an_image_has_no_direction():
    a = train_combinations()[5]
    r = read(render(a.still(), 1, RenderConfig(frames=1))[0])
    assert r.direction is None and score(r, a.still())["all"] and "direction" not in score(r, a.still())


@pytest.mark.parametrize("fill", [0, 128, 255])
def test_nothing_there_is_read_as_nothing(fill):
    r = read(np.full((5, 64, 64, 3), fill, np.uint8))
    assert (r.colour, r.shape, r.direction, r.size, r.count) == (None, None, None, None, 0)
    assert not any(score(r, GRID[0]).values()) and fidelity(r, GRID[0]) == 0
    assert set(r.confidences.values()) == {0.0}


def test_pure_noise_does_not_pass_as_a_clip():
    rng = np.random.default_rng(0)
    v = rng.integers(0, 256, (9, 64, 64, 3)).astype(np.uint8)
    r = read(v)
    assert r.direction is None and not any(score(r, a)["all"] for a in GRID)


def test_each_object_of_a_scene_of_two_can_be_read_by_its_colour():
    singles = [a for a in train_combinations() if a.count == 1 and a.size == "small"]
    rng = np.random.default_rng(4)
    right = n = 0
    for i in range(30):
        pair = [singles[j] for j in rng.integers(len(singles), size=2)]
        if pair[0].colour == pair[1].colour:
            continue
        video = render(pair, [8, i], RenderConfig(size=64))
        right += sum(score(read(video, colour=a.colour), a)["all"] for a in pair)
        n += 2
    assert n > 40 and right >= 0.95 * n


def test_each_attribute_can_be_wrong_alone():
    a = train_combinations()[0]
    r = read(render(a, 0, RenderConfig()))
    for b in GRID:
        s = score(r, b)
        assert all(s[k] == (getattr(a, k) == getattr(b, k)) for k in NAMES) and s["all"] == (a == b)


def test_fidelity_ranks_right_above_blurred_above_wrong():
    videos, attrs = _truth(30, 64)
    for v, a in zip(videos, attrs, strict=True):
        wrong = GRID[(GRID.index(a) + 97) % len(GRID)]
        good, soft, bad = fidelity(read(v), a), fidelity(read(_blur(3.0)(v, None)), a), fidelity(read(v), wrong)
        assert 0 <= bad < soft <= good + 0.02 and good > 0.85 and good <= 1


def test_gate_says_untestable_below_the_bar():
    videos, attrs = _truth(20, 48)
    rows = gate([v[::-1] for v in videos], attrs, bar=0.95)  # time reversed: every direction is wrong
    assert rows["direction"].verdict == "untestable" and rows["direction"].rate == 0
    assert rows["colour"].verdict == "testable"


def test_gate_of_images_cannot_test_direction():
    held = held_out_combinations()[:4]
    images = [render(a.still(), i, RenderConfig(frames=1))[0] for i, a in enumerate(held)]
    rows = gate(images, [a.still() for a in held], bar=0.9)
    assert rows["direction"].n == 0 and not rows["direction"].ok and rows["colour"].ok


def test_wrong_shape_is_named():
    with pytest.raises(ValueError, match=r"\(3, 4\)"):
        read(np.zeros((3, 4)))
