"""Text in pictures whose text is known: burnt in here, and the subtitles of a real clip."""

from __future__ import annotations

import json
import os
from pathlib import Path

import cv2
import numpy as np
import pytest
from chinese_font import CJK, needs_cjk
from PIL import Image, ImageDraw, ImageFont

from stepvideo.curation.backends import Absent
from stepvideo.curation.backends.text import Line, RapidOCR
from stepvideo.curation.clip_frames import ClipFrames
from stepvideo.data.video_io import iter_frames

VIDEOS = Path(os.environ.get("STEPVIDEO_SHARED", Path(__file__).parents[3] / "shared")) / "videos"
SIZE = (640, 360)


@pytest.fixture(scope="module")
def backend() -> RapidOCR:
    return RapidOCR()


def background(seed: int) -> np.ndarray:
    noise = np.random.default_rng(seed).integers(0, 255, (9, 16, 3)).astype(np.uint8)
    return cv2.resize(noise, SIZE, interpolation=cv2.INTER_CUBIC)


def written(text: str, seed: int, at: tuple[int, int] = (320, 325), font: str | None = None) -> np.ndarray:
    """White outlined text around the point `at`, uint8 [360, 640, 3]."""
    picture = Image.fromarray(background(seed))
    face = ImageFont.truetype(str(font), 28) if font else ImageFont.load_default(28)
    ImageDraw.Draw(picture).text(at, text, "white", face, "mm", stroke_width=2, stroke_fill="black")
    return np.asarray(picture)


def clip(*frames: np.ndarray) -> ClipFrames:
    return ClipFrames.of("c", len(frames), frames, 24.0)


def edits(a: str, b: str) -> int:
    """Levenshtein distance."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        last, row[0] = row[0], i
        for j, y in enumerate(b, 1):
            last, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, last + (x != y))
    return row[-1]


def test_english_lines_are_read_once_each_with_their_place(backend) -> None:
    first, second = "Nobody saw the train leave", "Platform 9 is closed today"
    got = backend(clip(written(first, 0), written(first, 1), background(2), written(second, 3)))
    assert got["text"] == f"{first}\n{second}"
    assert (got["text_languages"], got["subtitle"], got["text_lines"]) == ("en", True, 1)
    assert got["text_frames"] == 0.75
    assert 0.03 < got["text_area"] < 0.08


@needs_cjk
def test_chinese_lines_are_read(backend) -> None:
    text = "火车已经离开车站了"
    got = backend(clip(written(text, 4, font=CJK), written("Goodbye", 5)))
    assert got["text"].split("\n") == [text, "Goodbye"]
    assert got["text_languages"] == "en+zh"


def test_text_in_a_corner_is_no_subtitle_and_pictures_without_text_have_none(backend) -> None:
    corner = backend(clip(written("example.org", 6, at=(540, 30))))
    assert (corner["text"], corner["subtitle"]) == ("example.org", False)
    assert backend(clip(background(7), background(8))) == {
        "text_area": 0.0,
        "text_frames": 0.0,
        "text_lines": 0,
        "text_languages": "",
        "text": "",
        "subtitle": False,
    }


def test_readings_of_a_line_are_put_to_the_vote() -> None:
    place = (0.2, 0.8, 0.8, 0.9)
    line = Line(place, [("The mead0w wakes", 0.99), ("The meadow wakes", 0.9), ("The meadow wakes", 0.95)])
    assert line.text == "The meadow wakes"
    assert Line(place, [("Frame 12", 0.9)]).shows("Frane 12", place)
    assert not Line(place, [("Frame 12", 0.9)]).shows("Frame 13", place)
    assert not Line(place, [("Frame 12", 0.9)]).shows("Frame 12", (0.2, 0.1, 0.8, 0.2))


def test_other_weights_are_a_folder_of_two_networks(tmp_path: Path, backend) -> None:
    with pytest.raises(Absent, match=r"det\.onnx is not there"):
        RapidOCR(str(tmp_path))
    import rapidocr

    shipped = Path(rapidocr.__file__).parent / "models"
    for part in ("det", "rec"):
        (tmp_path / f"{part}.onnx").symlink_to(shipped / f"PP-OCRv6_{part}_small.onnx")
    frames = clip(written("Other weights", 9))
    assert RapidOCR(str(tmp_path))(frames) == backend(frames)


@pytest.mark.skipif(not VIDEOS.is_dir(), reason=f"needs the real clips in {VIDEOS} (set STEPVIDEO_SHARED)")
def test_real_subtitles_are_exact_and_frames_without_any_have_none(backend, monkeypatch) -> None:
    name = "made_subtitles_en_zh.mp4"
    truth = json.loads((VIDEOS / "GROUND_TRUTH_made.json").read_text())[name]["text"]
    video = list(iter_frames(VIDEOS / name))
    sampled = [int((i + 0.5) * len(video) / 12) for i in range(12)]
    frames = [np.ascontiguousarray(video[i][:, :, ::-1]) for i in sampled]
    read, whole = [], backend.read
    monkeypatch.setattr(backend, "read", lambda frame: read.append(whole(frame)) or read[-1])
    got = backend(ClipFrames("c", frames, [], np.stack(frames[:1])[:, :, :, 0], 24.0))
    for i, lines in zip(sampled, read, strict=True):
        expected = [t["text"] for t in truth if t["start_s"] <= i / 24 <= t["end_s"]]
        assert len(lines) == len(expected), i / 24
        assert sum(edits(line[0], text) for line, text in zip(lines, expected)) <= 0.02 * len("".join(expected)), lines
    wanted = "\n".join(t["text"] for t in truth)
    assert edits(got["text"], wanted) <= 0.02 * len(wanted)
