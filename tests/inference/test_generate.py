"""`generate`: a file that plays, the same for the same seed; every mistake names its fix and leaves nothing behind."""

from __future__ import annotations

import numpy as np
import pytest

from stepvideo.data.video_io import read_image, read_video, video_fps
from stepvideo.errors import ArtifactError, StepVideoError
from stepvideo.inference.generate import generate

PROMPT = "一个红色的大圆向右移动"


def test_writes_a_video_and_says_what_it_cost(tiny_models, tmp_path):
    said: list[str] = []
    out = tmp_path / "red.mp4"
    done = generate(PROMPT, out, tiny_models, tiny_models, tiny_models, device="cpu", fps=10, say=said.append)
    video = read_video(out)
    assert video.shape == (17, 192, 192, 3) and video_fps(out) == 10
    assert done.nfe == 8 and done.seconds > 0
    assert "8 evaluations" in said[0] and "17 frames of 32x32" in said[0]
    assert [p.name for p in tmp_path.iterdir()] == ["red.mp4"]


def test_the_seed_decides(tiny_models, tmp_path):
    """The released code ignores its seed (notes/official.md §8.1); this must not."""

    def pixels(name: str, seed: int) -> np.ndarray:
        generate(
            PROMPT, tmp_path / name, tiny_models, tiny_models, tiny_models, seed=seed, say=lambda _: None, min_side=0
        )
        return read_video(tmp_path / name)

    first = pixels("a.mp4", 1)
    assert first.shape == (17, 32, 32, 3)
    assert np.array_equal(first, pixels("b.mp4", 1))
    assert not np.array_equal(first, pixels("c.mp4", 2))


def test_overrides_and_stills(tiny_models, tmp_path):
    said: list[str] = []
    models = (tiny_models, tiny_models, tiny_models)
    done = generate("a red circle", tmp_path / "red.png", *models, frames=1, steps=2, cfg=1.0, say=said.append)
    assert (done.nfe, done.sampling.steps) == (2, 2)
    assert read_image(tmp_path / "red.png").shape == (192, 192, 3)


@pytest.mark.parametrize(
    ("prompt", "name", "changes", "error", "message"),
    [
        ("  ", "a.mp4", {}, StepVideoError, "the prompt is empty"),
        ("一条龙", "a.mp4", {}, StepVideoError, "no token for"),
        (PROMPT, "a.gif", {}, StepVideoError, "ends in .mp4"),
        (PROMPT, "a.mp4", {"frames": 1}, StepVideoError, "ends in .png"),
        (PROMPT, "a.mp4", {"width": 30}, StepVideoError, "width=30 must be a multiple of 16"),
        (PROMPT, "a.mp4", {"step": 3}, StepVideoError, "sampling has no step"),
        (PROMPT, "none/a.mp4", {}, StepVideoError, "there is no folder"),
    ],
)
def test_mistakes_name_the_fix_and_leave_nothing(tiny_models, tmp_path, prompt, name, changes, error, message):
    with pytest.raises(error, match=message):
        generate(prompt, tmp_path / name, tiny_models, tiny_models, tiny_models, say=lambda _: None, **changes)
    assert not list(tmp_path.iterdir())


def test_missing_models_are_named(tiny_models, tmp_path):
    with pytest.raises(ArtifactError, match="holds no vae/; train a model first"):
        generate(PROMPT, tmp_path / "a.mp4", tiny_models, tmp_path, tiny_models)


def test_a_full_disk_leaves_nothing(tiny_models, tmp_path, monkeypatch):
    import os

    def full(*_a, **_k):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(ArtifactError, match="No space left on device"):
        generate(PROMPT, tmp_path / "a.mp4", tiny_models, tiny_models, tiny_models, say=lambda _: None)
    assert not list(tmp_path.iterdir())
