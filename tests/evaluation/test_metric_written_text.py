"""Text that a prompt asks for, written into pictures and read by PP-OCR."""

from __future__ import annotations

import numpy as np
import pytest
from chinese_font import CJK, needs_cjk
from PIL import Image, ImageDraw, ImageFont

from stepvideo.evaluation.metrics.base import Asked, measure
from stepvideo.evaluation.metrics.registry import metrics_of
from stepvideo.evaluation.metrics.written_text import expected, likeness


@pytest.fixture(scope="module")
def metric():
    return metrics_of(["written_text"])[0]


def written(text: str) -> np.ndarray:
    """A still [160, 400] with white text on blue."""
    picture = Image.new("RGB", (400, 160), (20, 40, 110))
    face = ImageFont.load_default(34) if text.isascii() else ImageFont.truetype(CJK, 40)
    ImageDraw.Draw(picture).text((200, 80), text, "white", face, "mm")
    return np.array(picture)[None]


@pytest.mark.parametrize(
    ("prompt", "lang", "shown", "low", "high"),
    [
        ('a sign that reads "OPEN NIGHT"', "en", "Open night", 1, 1),
        ('a sign that reads "OPEN NIGHT"', "en", "Open light", 0.85, 0.95),
        ('a sign that reads "OPEN NIGHT"', "en", "", 0, 0),
        pytest.param("霓虹灯招牌上写着“欢迎光临”", "zh", "欢迎光临", 1, 1, marks=needs_cjk),
        pytest.param("霓虹灯招牌上写着“欢迎光临”", "zh", "欢迎来到", 0.4, 0.6, marks=needs_cjk),
    ],
)
def test_text_is_read_and_compared(metric, prompt, lang, shown, low, high):
    found = measure(written(shown), 0, Asked(prompt, lang), [metric])
    assert low <= found.values["text_accuracy"] <= high
    assert found.values["text_accuracy"] == pytest.approx(found.values["text_accuracy_best"])


def test_a_text_among_others_counts(metric):
    frames = written("Exit left")
    frames[:, 100:] = written("Open night")[:, 50:110]
    asked = Asked("a street", "en", aux={"text": ["open night"]})
    assert measure(frames, 0, asked, [metric]).values["text_accuracy"] > 0.8


@pytest.mark.parametrize(
    ("asked", "texts"),
    [
        (Asked('a banner with "Hello" and “World”'), ["Hello", "World"]),
        (Asked("黑板上写着「你好」"), ["你好"]),
        (Asked('he says "never again" and leaves'), []),
        (Asked('"never again"', dimensions=("written_text",)), ["never again"]),
        (Asked("a red sign"), []),
        (Asked("x", aux={"text": "given"}), ["given"]),
        (Asked('the dog\'s "sign"'), []),
    ],
)
def test_which_text_is_asked_for(asked, texts):
    assert expected(asked) == texts


def test_what_cannot_be_judged_has_a_reason(metric):
    for asked, why in ((Asked("a dog"), "no written text"), (Asked("门上写着“福”"), "fewer than 2")):
        found = measure(written("dog"), 0, asked, [metric])
        assert found.values["text_accuracy"] is None and why in found.reasons["text_accuracy"]


def test_likeness_ignores_case_width_spaces_and_punctuation():
    assert likeness("Hello, World!", "ＨＥＬＬＯ world") == 1
    assert likeness("kitten", "sitting") == pytest.approx(1 - 3 / 7)
    assert likeness("", "abc") == 0
