"""The renderer: determinism, geometry, separation of objects from backgrounds, files."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from stepvideo.config import load
from stepvideo.errors import ConfigError
from stepvideo.world import media
from stepvideo.world.attributes import DIRECTIONS, SHAPES, SIZES, all_combinations, train_combinations
from stepvideo.world.config import BACKGROUNDS, CodecConfig, RenderConfig
from stepvideo.world.render import AREA, GAP, RADIUS, VECTOR, WINDOW, coverage, extent, plan, render

TRAIN = train_combinations()


def _md5(x: np.ndarray | bytes) -> str:
    return hashlib.md5(x if isinstance(x, bytes) else x.tobytes()).hexdigest()


def test_same_seed_same_clip_and_another_seed_another():
    cfg = RenderConfig(size=48)
    a = render(TRAIN[3], [1, 2], cfg)
    assert a.shape == (25, 48, 48, 3) and a.dtype == np.uint8
    assert _md5(a) == _md5(render(TRAIN[3], [1, 2], cfg))
    assert _md5(a) != _md5(render(TRAIN[3], [1, 3], cfg))


@pytest.mark.parametrize(("height", "width"), [(48, 48), (64, 96), (128, 64)])
def test_objects_stay_inside_move_as_named_and_keep_apart(height, width):
    cfg = RenderConfig(height=height, width=width)
    u = min(height, width)
    for i, a in enumerate(all_combinations()):
        scene = plan(a, [7, i], cfg, allow_held_out=True)
        half = np.array(extent(a.shape, a.size))
        assert len(scene.bodies) == a.count
        for b in scene.bodies:
            assert (b.path_t2 - half >= 0).all() and (b.path_t2 + half <= np.array([width, height]) / u).all()
            step = b.path_t2[WINDOW] - b.path_t2[0]
            assert step @ np.array(VECTOR[a.direction]) >= 0.2
            assert abs(step @ np.array(VECTOR[a.direction])[::-1]) < 1e-9
        if a.count == 2:
            p, q = (b.path_t2 for b in scene.bodies)
            gap = np.abs(p - q) - 2 * half
            assert (gap.max(axis=1) >= GAP - 1e-9).all()


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("size", SIZES)
def test_coverage_has_the_stated_area(shape, size):
    u = 128
    x = ((np.arange(u) + 0.5) / u - 0.5).astype(np.float32)
    area = coverage(shape, size, x[None], x[:, None], u).sum() / u**2
    assert area == pytest.approx(np.pi * RADIUS[size] ** 2 * AREA[shape], rel=0.03)


@pytest.mark.parametrize("kind", BACKGROUNDS)
def test_backgrounds_are_pale_and_objects_are_not(kind):
    cfg = RenderConfig(size=64, frames=5, backgrounds=[kind], drift=1.0)
    for i in range(12):
        scene = plan(TRAIN[i * 21], [2, i], cfg)
        video = render(TRAIN[i * 21], [2, i], cfg).astype(int)
        chroma = video.max(-1) - video.min(-1)
        inside = 0
        for b in scene.bodies:
            for t in range(5):
                x, y = (b.path_t2[t] * 64).astype(int)
                inside = max(inside, 1)
                assert chroma[t, y, x] > 0.5 * 255
        share = (chroma > 0.15 * 255).mean()
        assert inside and share < 0.2


def test_a_drifting_background_changes_and_a_fixed_one_does_not():
    still = TRAIN[0].still()
    moving = render(still, 3, RenderConfig(size=48, backgrounds=["stripes"], drift=1.0))
    fixed = render(still, 3, RenderConfig(size=48, backgrounds=["stripes"], drift=0.0))
    assert (moving[0] != moving[-1]).any() and (fixed == fixed[0]).all()


def test_long_clips_slow_down_rather_than_leave_the_frame():
    cfg = RenderConfig(size=48, frames=97)
    for i, d in enumerate(DIRECTIONS):
        a = next(a for a in TRAIN if a.direction == d and a.size == "large" and a.shape == "triangle")
        path = plan(a, i, cfg).bodies[0].path_t2
        assert path.min() > 0 and path.max() < 1


@pytest.mark.parametrize("frames", [33, 48, 200])
def test_a_way_that_takes_all_the_room_is_no_error(frames):
    cfg = RenderConfig(size=64, frames=frames)
    for seed in range(40):
        a = TRAIN[seed * 7 % len(TRAIN)]
        path = plan(a, seed, cfg).bodies[0].path_t2
        assert path.min() > 0 and path.max() < 1


@pytest.mark.parametrize(
    ("field", "value"),
    [("size", 47), ("size", 16), ("frames", 0), ("backgrounds", ["sea"]), ("speed_min", 0.9), ("still_fraction", 2.0)],
)
def test_bad_config_names_field_and_value(field, value):
    with pytest.raises(ConfigError, match=field):
        load(RenderConfig, {field: value})


@pytest.mark.parametrize("preset", ["superfast", "medium"])
def test_mp4_round_trip_and_equal_bytes(tmp_path, preset):
    codec = CodecConfig(preset=preset)
    for i in range(6):
        video = render(TRAIN[i * 40], [4, i], RenderConfig(size=64))
        data = [media.encode_mp4(video, 25, codec) for _ in range(4)]
        assert len(set(data)) == 1
        media.write_mp4(tmp_path / "x.mp4", video, 25, codec)
        assert (tmp_path / "x.mp4").read_bytes() == data[0]
        back = media.decode_mp4(tmp_path / "x.mp4")
        assert back.shape == video.shape
        mse = ((back.astype(float) - video) ** 2).mean()
        assert 10 * np.log10(255**2 / mse) > 38


def test_png_round_trip_is_exact(tmp_path):
    image = render(TRAIN[9].still(), 1, RenderConfig(size=64, frames=1))[0]
    media.write_png(tmp_path / "x.png", image)
    assert (media.read_png(tmp_path / "x.png") == image).all()
