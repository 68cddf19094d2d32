"""Camera motion against pictures that were moved in a known way."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from stepvideo.curation.backends.camera import CameraMotion
from stepvideo.curation.clip_frames import ClipFrames

FPS, FRAMES, HEIGHT, WIDTH = 24.0, 8, 96, 160
MOVES: dict[str, dict[str, float]] = {
    "static": {},
    "pan_left": {"right": -1},
    "pan_right": {"right": 1},
    "tilt_up": {"down": -1},
    "tilt_down": {"down": 1},
    "zoom_in": {"zoom": 1},
    "zoom_out": {"zoom": -1},
    "roll": {"roll": 1},
}


@pytest.fixture
def film(monkeypatch):
    """film(seed, things, right=, …) → ClipFrames of a moving camera."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    import moving_pictures

    def make(seed: int, things: int = 0, frames: int = FRAMES, **move: float) -> ClipFrames:
        camera = moving_pictures.Move(**move)
        video = moving_pictures.film(np.random.default_rng(seed), camera, frames, HEIGHT, WIDTH, things)
        return ClipFrames.of("c", frames, video, FPS)

    yield make
    sys.modules.pop("moving_pictures")


def test_the_names_of_64_generated_motions(film) -> None:
    """Speeds from 0.05 to 0.24 frame sizes a second, with none to two things moving on their own."""
    backend, wrong = CameraMotion(), []
    for seed in range(8):
        speed = np.random.default_rng(seed).uniform(0.002, 0.01)
        for name, move in MOVES.items():
            got = backend(film(seed, seed % 3, **{k: v * speed for k, v in move.items()}))
            if got["camera"] != name:
                wrong.append((name, seed, got))
    assert len(wrong) <= 0.05 * 64, wrong


def test_rates_are_per_second_and_signed_as_the_camera_moves(film) -> None:
    got = CameraMotion()(film(1, right=0.006, down=-0.004, zoom=0.005, roll=-0.003))
    assert got["camera"] == "mixed"
    assert got["camera_pan"] == pytest.approx(0.006 * FPS, rel=0.15)
    assert got["camera_tilt"] == pytest.approx(0.004 * FPS, rel=0.15)
    assert got["camera_zoom"] == pytest.approx(0.005 * FPS, rel=0.15)
    assert got["camera_roll"] == pytest.approx(-0.003 * FPS, rel=0.15)


def test_a_shaking_camera_is_handheld_and_a_steady_one_is_not(film) -> None:
    shaky, steady = (CameraMotion()(film(2, frames=16, **m)) for m in ({"shake": 0.012}, {"right": 0.005}))
    assert shaky["camera"] == "handheld"
    assert shaky["camera_steadiness"] < 0.5 < 0.8 < steady["camera_steadiness"]


def test_a_still_has_no_camera_motion(film) -> None:
    assert set(CameraMotion()(film(3, frames=1)).values()) == {None}
