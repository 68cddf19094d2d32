"""Every metric on clips whose answer is known."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import cv2
import numpy as np
import pytest

from stepvideo.curation.segment import CutDetector
from stepvideo.errors import ConfigError
from stepvideo.evaluation.metrics.base import HIGHER, LOWER, NEITHER, Asked, Computed, Null, describe, measure
from stepvideo.evaluation.metrics.cuts import detect
from stepvideo.evaluation.metrics.registry import METRICS, metrics_of
from stepvideo.evaluation.metrics.video import Video
from stepvideo.evaluation.metrics.warping import seen_in_both
from stepvideo.world.attributes import Attrs
from stepvideo.world.config import RenderConfig
from stepvideo.world.render import render

WEIGHTS = Path(__file__).parents[2] / "weights" / "text"
SIDE, FPS, SQUARE = 96, 24.0, 40
MOTION = ["flicker", "dynamic_degree", "warp_error", "smoothness"]


def texture(seed: int, height: int, width: int) -> np.ndarray:
    """Smooth noise over the whole range, uint8 [height, width, 3]."""
    noise = np.random.default_rng(seed).random((height, width, 3), np.float32)
    smooth = cv2.GaussianBlur(noise, (0, 0), 3)
    return cv2.normalize(smooth, np.empty_like(smooth), 0, 255, cv2.NORM_MINMAX).astype(np.uint8)


def moving_square(shift: float, frames: int = 13, seed: int = 0) -> np.ndarray:
    """A textured square that moves `shift` pixels a frame to the right over a textured ground."""
    ground, square = texture(seed, SIDE, SIDE), texture(seed + 1, SQUARE, SQUARE)
    out = []
    for i in range(frames):
        move = np.array([[1, 0, 4 + shift * i], [0, 1, 28]], np.float32)
        moved = cv2.warpAffine(square, move, (SIDE, SIDE))
        mask = cv2.warpAffine(np.ones((SQUARE, SQUARE), np.float32), move, (SIDE, SIDE))[..., None]
        out.append((moved * (mask > 0) + ground * (1 - mask)).round().clip(0, 255).astype(np.uint8))
    return np.stack(out)


def panned(shift: int, frames: int = 13) -> np.ndarray:
    """A window that moves over a texture: every pixel moves alike."""
    wide = texture(5, SIDE, SIDE + shift * frames)
    return np.stack([wide[:, shift * i : shift * i + SIDE] for i in range(frames)])


def noisy(frames: np.ndarray, sigma: float) -> np.ndarray:
    noise = np.random.default_rng(1).normal(0, sigma, frames.shape)
    return (frames + noise).round().clip(0, 255).astype(np.uint8)


def values(frames: np.ndarray, names: list[str], asked: Asked | None = None, fps: float = FPS) -> dict[str, float]:
    found = measure(frames, fps, asked or Asked(), metrics_of(names))
    assert not found.reasons
    return {k: v for k, v in found.values.items() if v is not None}


def test_a_still_video_is_perfect_and_does_not_move():
    still = np.repeat(texture(0, SIDE, SIDE)[None], 9, axis=0)
    assert values(still, MOTION) == {
        "temporal_flicker": 1.0,
        "motion_magnitude": 0.0,
        "dynamic_degree_dis": 0.0,
        "warp_error": 0.0,
        "warp_error_visible": 0.0,
        "pixels_visible": 1.0,
        "motion_smoothness_dis": 1.0,
    }


def test_flicker_is_vbenchs_formula():
    frames = noisy(panned(2, 4), 20)
    change = np.abs(np.diff(frames.astype(np.float64), axis=0)).mean()
    assert values(frames, ["flicker"])["temporal_flicker"] == pytest.approx((255 - change) / 255, abs=1e-12)


@pytest.mark.parametrize("shift", [1, 3])
def test_motion_of_a_pan_is_its_shift(shift):
    video = Video(panned(shift), FPS)
    inner = video.flow(0, 1)[16:-16, 16:-16]
    np.testing.assert_allclose(np.median(inner.reshape(-1, 2), axis=0), [-shift, 0], atol=0.05)
    assert values(video.frames, ["flicker"])["motion_magnitude"] == pytest.approx(shift / SIDE * FPS, rel=0.05)


def test_a_moving_square_moves_its_own_pixels_only():
    shift = 2
    flow = Video(moving_square(shift), FPS).flow(0, 1)
    np.testing.assert_allclose(np.median(flow[34:62, 10:38].reshape(-1, 2), axis=0), [shift, 0], atol=0.05)
    assert np.abs(flow[:20, 60:]).max() < 0.2
    share = (SQUARE / SIDE) ** 2
    found = values(moving_square(shift), ["flicker"])["motion_magnitude"]
    assert found == pytest.approx(share * shift / SIDE * FPS, rel=0.35)  # flow is smooth beyond the square's edge


@pytest.mark.parametrize(("shift", "moves"), [(0.25, 0.0), (3, 1.0)])
def test_dynamic_degree_by_the_threshold_at_8_fps(shift, moves):
    """Every third frame: 0.75 and 9 pixels a pair; the threshold is 6 · 96 / 256 = 2.25."""
    assert values(moving_square(shift), ["dynamic_degree"]) == {"dynamic_degree_dis": moves}


def test_dynamic_degree_of_slow_videos_asks_for_more():
    """At 4 fps the threshold is twice as high: 4.5 pixels a pair."""
    frames = moving_square(3, frames=8)
    assert [values(frames, ["dynamic_degree"], fps=f)["dynamic_degree_dis"] for f in (8, 4)] == [1.0, 0.0]


def test_dynamic_degree_needs_three_frames():
    found = measure(moving_square(3, frames=4), FPS, Asked(), metrics_of(["dynamic_degree"]))
    assert found.values == {"dynamic_degree_dis": None}
    assert "3 or more" in found.reasons["dynamic_degree_dis"]


def test_noise_makes_every_metric_of_motion_worse():
    levels = [values(noisy(moving_square(2), sigma), MOTION) for sigma in (0, 6, 18)]
    for name, direction in (("temporal_flicker", -1), ("motion_smoothness_dis", -1), ("warp_error_visible", 1)):
        series = [direction * v[name] for v in levels]
        assert series == sorted(series) and len(set(series)) == 3, name


def test_a_flickering_video_is_worse_than_a_smooth_one():
    smooth = moving_square(2)
    gains = np.where(np.arange(len(smooth)) % 2, 0.8, 1.0)[:, None, None, None]
    flickering = (smooth * gains).astype(np.uint8)
    a, b = values(smooth, MOTION), values(flickering, MOTION)
    assert a["temporal_flicker"] > b["temporal_flicker"] + 0.02
    assert a["motion_smoothness_dis"] > b["motion_smoothness_dis"] + 0.02
    assert a["warp_error_visible"] < b["warp_error_visible"] / 2


def test_uniform_motion_is_smooth_and_a_jump_is_not():
    even = moving_square(2)
    jerky = even[[0, 3, 2, 5, 4, 7, 6, 9, 8, 11, 10, 12]]
    a, b = (values(f, ["smoothness"])["motion_smoothness_dis"] for f in (even, jerky))
    assert a > 0.99 > b


def test_pixels_that_go_out_of_sight_are_not_visible():
    video = Video(moving_square(4), FPS)
    visible = seen_in_both(video.flow(0, 1), video.flow(1, 0))
    assert visible[32:64, 8:36].mean() > 0.98  # the square
    assert visible[:20].mean() > 0.95  # the ground far from it
    assert visible[30:66, 44:48].mean() < 0.5  # the ground that the square covers next
    found = values(moving_square(4), ["warp_error"])
    assert found["warp_error_visible"] < found["warp_error"]
    assert found["pixels_visible"] < 0.99


def test_a_cut_is_found_where_it_is():
    frames = np.concatenate([panned(1, 14), moving_square(1, 15, seed=9)])
    assert detect(Video(frames, FPS)).cuts == [14]
    assert isinstance(detect(Video(frames, FPS)), CutDetector)
    assert values(frames, ["cuts"]) == {"cuts": 1.0, "transitions": 0.0}
    assert values(panned(1, 20), ["cuts"]) == {"cuts": 0.0, "transitions": 0.0}


def test_sharpness_saturation_and_borders():
    frames = panned(1, 6)
    blurred = np.stack([cv2.GaussianBlur(f, (0, 0), 4) for f in frames])
    grey = np.repeat(frames.mean(axis=-1, keepdims=True).astype(np.uint8), 3, axis=-1)
    boxed = np.maximum(frames, 60)
    boxed[:, :12], boxed[:, -12:] = 0, 0
    plain, soft, dull, inside = (values(f, ["picture"]) for f in (frames, blurred, grey, boxed))
    assert soft["sharpness"] < plain["sharpness"] / 4
    assert dull["saturation"] == 0 < plain["saturation"] < 1
    assert (plain["black_border"], inside["black_border"]) == (0, pytest.approx(0.25))


def test_the_oracle_reads_what_was_asked_for():
    attrs = Attrs("red", "square", "left", "large", 1)
    video = render(attrs, (0, 0), RenderConfig(size=64, frames=9), allow_held_out=True)
    names = ("colour", "shape", "direction", "size", "count", "all")
    right = values(video, ["oracle"], Asked(aux={"attrs": attrs.as_dict()}))
    assert right == {f"oracle_{n}": 1.0 for n in names}
    wrong = values(video, ["oracle"], Asked(aux={"attrs": attrs.as_dict() | {"colour": "blue"}}))
    assert wrong == right | {"oracle_colour": 0.0, "oracle_all": 0.0}
    still = measure(video[:1], 0, Asked(aux={"attrs": attrs.still().as_dict()}), metrics_of(["oracle"]))
    assert still.values["oracle_direction"] is None and still.values["oracle_colour"] == 1
    assert "small world" in measure(video, FPS, Asked(), metrics_of(["oracle"])).reasons["oracle_all"]


def test_clip_score_prefers_the_prompt_that_is_shown():
    """By the small CLIP that comes with the repository."""
    (metric,) = metrics_of(["clip_score"], {"clip_score": str(WEIGHTS)})
    video = render(Attrs("red", "square", "left", "large", 1), (0, 0), RenderConfig(size=64, frames=17))
    prompts = ("一个红色的大正方形向左移动", "一个蓝色的大正方形向左移动")
    right, wrong = (measure(video, FPS, Asked(p, "zh"), [metric]).values["clip_score"] for p in prompts)
    assert -1 <= wrong < right <= 1
    towers = metric.backend.towers
    expected = float((towers.frames(Video(video, FPS).clip) @ towers.texts([prompts[0]])[0]).mean())
    assert right == pytest.approx(expected)
    assert "language" in measure(video, FPS, Asked("ein Ball", "de"), [metric]).reasons["clip_score"]
    assert metric.weights_digest


@pytest.mark.parametrize("name", ["clip_score", "aesthetic"])
def test_without_weights_there_is_a_reason_and_no_number(name, tmp_path):
    for weights in ({}, {name: str(tmp_path / "none")}):
        found = measure(panned(1, 3), FPS, Asked("a b", "en"), metrics_of([name], weights))
        assert found.values == {name: None}
        assert "weights" in found.reasons[name] or "missing" in found.reasons[name]


def test_a_still_and_a_tiny_video_have_no_motion_but_pictures():
    for frames, why in ((panned(1, 1), "still"), (np.zeros((5, 8, 20, 3), np.uint8), "16")):
        found = measure(frames, FPS, Asked(), metrics_of([*MOTION, "cuts", "picture"]))
        assert {k for k, v in found.values.items() if v is None} == {v for m in metrics_of(MOTION) for v in m.values}
        assert why in found.reasons["temporal_flicker"]


def test_large_frames_are_measured_as_small_ones():
    frames = moving_square(2, frames=5)
    large = np.stack([cv2.resize(f, None, fx=4, fy=4, interpolation=cv2.INTER_CUBIC) for f in frames])
    a, b = (values(f, ["flicker"])["motion_magnitude"] for f in (frames, large))
    assert Video(large, FPS).grey.shape[1:] == (256, 256)
    assert a == pytest.approx(b, rel=0.15)


def test_twice_the_same_and_whatever_the_number_of_threads():
    frames, threads = moving_square(2), cv2.getNumThreads()
    first = values(frames, MOTION)
    try:
        cv2.setNumThreads(2)
        assert values(frames.copy(), MOTION) == first
        assert cv2.getNumThreads() == 2
    finally:
        cv2.setNumThreads(threads)


def test_one_flow_serves_all_metrics(monkeypatch):
    asked = []
    real = Video.grey.func
    monkeypatch.setattr(Video.grey, "func", lambda video: asked.append(1) or real(video))
    video = Video(moving_square(2, frames=4), FPS)
    assert video.flow(0, 1) is video.flow(0, 1)
    assert len(asked) == 1


def test_registry():
    metrics = metrics_of()
    assert [m.name for m in metrics] == list(METRICS)
    names = [v for m in metrics for v in m.values]
    assert len(set(names)) == len(names)
    assert {d for m in metrics for d in m.values.values()} == {HIGHER, LOWER, NEITHER}
    for m in metrics:
        looks = len(re.findall(r"\basked\b", inspect.getsource(type(m).score))) > 1
        assert looks == ("prompt" in m.needs), f"{m.name}: values are kept by what they need"
    assert [m.name for m in metrics_of(["cuts", "flicker"])] == ["flicker", "cuts"]
    assert describe(metrics_of(["cuts"])) == {
        "cuts": {"version": "1", "values": {"cuts": LOWER, "transitions": LOWER}, "weights": ""}
    }
    for names, weights, what in (
        (["motion"], {}, "metric 'motion' is not known"),
        (["cuts"], {"clip": "x"}, "weights for 'clip' is not known"),
        (["cuts"], {"clip_score": "x"}, "not measured"),
    ):
        with pytest.raises(ConfigError, match=what):
            metrics_of(names, weights)
    with pytest.raises(ConfigError, match="no weights"):
        metrics_of(["cuts"], {"cuts": "x"})


def test_a_metric_that_breaks_its_word_is_told():
    class Liar(Computed):
        name, version, values = "liar", "1", {"a": HIGHER}

        def __init__(self, said):
            self.said = said

        def score(self, video, asked):
            return self.said

    frames = panned(1, 2)
    assert measure(frames, FPS, Asked(), [Liar({"a": Null("why")})]).reasons == {"a": "why"}
    for said in ({"a": float("nan")}, {"b": 1.0}, {}):
        with pytest.raises(ValueError, match="liar"):
            measure(frames, FPS, Asked(), [Liar(said)])
    for wrong in (frames[0], frames.astype(float), frames[:0]):
        with pytest.raises(ValueError, match="uint8"):
            Video(wrong, FPS)
