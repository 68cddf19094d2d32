"""Words that a model never learnt are named, and only those."""

from __future__ import annotations

from pathlib import Path

import pytest

from stepvideo.inference.unseen import unseen_notices, unseen_words
from stepvideo.models.text_encoders import Tokenizers, load_tokenizers
from stepvideo.models.tokenizers import CLIPTokenizer, LLMTokenizer

WEIGHTS = Path(__file__).resolve().parents[2] / "weights/text"


@pytest.fixture(scope="module")
def shipped() -> Tokenizers:
    return load_tokenizers(WEIGHTS)


def test_words_of_other_worlds_are_named_once(shipped: Tokenizers) -> None:
    (said,) = unseen_notices(shipped, ["a Unicorn riding a bicycle, unicorn", "a Unicorn riding a bicycle, unicorn"])
    assert "has not learnt unicorn, riding, bicycle; its captions" in said
    many = " ".join("abcdefghijkl"[i] + "xyz" for i in range(12))
    assert unseen_notices(shipped, [many])[0].count("xyz") >= 8 and ", …" in unseen_notices(shipped, [many])[0]


@pytest.mark.parametrize(
    "text",
    [
        "一个红色的圆向右移动",
        "一个绿色的大三角形向左移动",
        "A large red circle moves right.",
        "two large yellow circles move down",
        "",
        "a b 12 !? \ud800",
    ],
)
def test_words_of_the_small_world_are_not(shipped: Tokenizers, text: str) -> None:
    assert unseen_words(shipped.clip, text) == []


def test_a_released_vocabulary_has_pieces_of_words_and_is_left_alone() -> None:
    captions = ["a red circle moves right", "一个红色的圆"]
    kept = (LLMTokenizer.train(captions), CLIPTokenizer.train(captions))
    assert unseen_notices(Tokenizers(*kept), ["moving circles"])[0].count("moving, circles") == 1
    for tokenizer in kept:
        tokenizer.unknown = "replace"
    assert unseen_notices(Tokenizers(*kept), ["moving circles"]) == []
