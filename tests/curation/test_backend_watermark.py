"""Marks over moving pictures: generated ones (more in benchmarks/watermark.py) and those of the real clips."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest

from stepvideo.curation.backends import Absent
from stepvideo.curation.backends.watermark import EfficientNetWatermark, StaticOverlay
from stepvideo.curation.clip_frames import ClipFrames
from stepvideo.data.video_io import iter_frames

VIDEOS = Path(os.environ.get("STEPVIDEO_SHARED", Path(__file__).parents[3] / "shared")) / "videos"
CLEAN = ("flower_540p.mp4", "frog_toy_480p.mp4", "crystal_handheld_480p.mp4", "stream_of_water_360p.mp4")


@pytest.fixture
def benchmark(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    import watermark

    yield watermark
    for name in ("watermark", "moving_pictures"):
        sys.modules.pop(name)


def clip(frames: np.ndarray) -> ClipFrames:
    return ClipFrames("c", list(frames), [], frames[:, :, :, 0], 24.0)


def test_generated_marks_are_found_and_clean_pictures_pass(benchmark) -> None:
    found = benchmark.measure(20)
    assert found["recall"] >= 0.9, found["missed"]
    assert found["precision"] >= 0.9, found["false"]
    assert found["boxes_on_the_mark"] >= 0.9


def test_what_does_not_move_is_not_judged(benchmark) -> None:
    rng = np.random.default_rng(0)
    colour, opacity, _ = benchmark.mark(rng)
    still = benchmark.stamped(benchmark.moving(rng)[:1], colour, opacity).repeat(8, axis=0)
    assert StaticOverlay()(clip(still)) == {"watermark": None, "watermark_box": None}


@pytest.mark.skipif(not VIDEOS.is_dir(), reason=f"needs the real clips in {VIDEOS} (set STEPVIDEO_SHARED)")
def test_the_real_marked_clip_is_flagged_and_its_unmarked_source_and_others_are_not() -> None:
    scores = {}
    for name in ("made_watermark.mp4", *CLEAN):
        frames = list(iter_frames(VIDEOS / name))[3:-3]
        sampled = np.stack([frames[int((i + 0.5) * len(frames) / 8)] for i in range(8)])[..., ::-1]
        if "480p" in name:
            sampled = sampled[:, :, 8:-8]  # those have black lines at both sides
        scores[name] = StaticOverlay()(clip(np.ascontiguousarray(sampled)))["watermark"] or 0
    assert [name for name, score in scores.items() if score >= 0.5] == ["made_watermark.mp4"], scores


def test_an_efficientnet_is_loaded_from_its_folder(tmp_path: Path) -> None:
    with pytest.raises(Absent, match="no EfficientNet in"):
        EfficientNetWatermark()
    with pytest.raises(Absent, match="preprocessor_config"):
        EfficientNetWatermark(str(tmp_path))
    import torch
    from transformers import EfficientNetConfig, EfficientNetForImageClassification
    from transformers.models.efficientnet.image_processing_pil_efficientnet import EfficientNetImageProcessorPil

    torch.manual_seed(0)
    labels = {0: "watermark", 1: "clean"}
    config = EfficientNetConfig(
        image_size=64,
        width_coefficient=0.25,
        depth_coefficient=0.25,
        hidden_dim=320,
        id2label=labels,
        label2id={v: k for k, v in labels.items()},
    )
    net = EfficientNetForImageClassification(config).eval()
    net.save_pretrained(tmp_path)
    EfficientNetImageProcessorPil(size={"height": 64, "width": 64}).save_pretrained(tmp_path)

    frames = np.random.default_rng(0).integers(0, 255, (3, 80, 120, 3)).astype(np.uint8)
    got = EfficientNetWatermark(str(tmp_path))(clip(frames))
    pixels = EfficientNetImageProcessorPil.from_pretrained(tmp_path)(list(frames[..., ::-1]), return_tensors="pt")
    with torch.inference_mode():
        expected = net(**pixels).logits.softmax(-1)[:, 0].mean()
    assert got == {"watermark": pytest.approx(float(expected), abs=1e-6), "watermark_box": None}

    said = json.loads((tmp_path / "config.json").read_text())
    said["id2label"] = {"0": "a", "1": "b", "2": "c"}
    said["label2id"] = {"a": 0, "b": 1, "c": 2}
    (tmp_path / "config.json").write_text(json.dumps(said))
    with pytest.raises((ValueError, RuntimeError)):
        EfficientNetWatermark(str(tmp_path))
