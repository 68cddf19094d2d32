"""Captions: what they always say, the vocabulary, prompts."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from stepvideo.world.attributes import held_out_combinations, is_held_out, train_combinations
from stepvideo.world.captions import EN, KINDS, OMIT_SIZE, ZH, Setting, captions, prompts, short
from stepvideo.world.config import BACKGROUNDS, LANGUAGES

TRAIN = train_combinations()


def _names(text, lang, a):
    """Does the text name each of the five attributes of `a`?"""
    if lang == "zh":
        return all(
            (
                ZH[a.colour] in text,
                any(s in text for s in ZH[a.shape]),
                f"向{ZH[a.direction]}" in text or f"往{ZH[a.direction]}" in text,
                f"{ZH[a.size]}圆" in text or f"的{ZH[a.size]}" in text or f"{ZH[a.size]}的" in text,
                ZH[a.count] in text,
            )
        )
    words = text.split()
    return all(
        (
            a.colour in words,
            EN[a.shape][a.count - 1] in words,
            any(d.split()[-1] in words for d in EN[a.direction]),
            any(s in words for s in EN[a.size]),
            (words[0] == "two") == (a.count == 2),
        )
    )


def test_the_users_wordings_are_among_the_paraphrases():
    rng = np.random.default_rng(0)
    circles = [a for a in TRAIN if (a.colour, a.shape, a.direction, a.count) == ("red", "circle", "right", 1)]
    seen = {short([a], lang, rng) for a in circles for lang in LANGUAGES for _ in range(300)}
    assert "一个红色的圆向右移动" in seen and "a red circle moves right" in seen


def test_prompts_name_all_five_attributes_in_both_languages():
    found = prompts(TRAIN, 520, seed=3)
    assert Counter(p.lang for p in found) == {"zh": 260, "en": 260}
    assert all(_names(p.text, p.lang, p.attrs) for p in found)
    n = Counter(p.attrs for p in found)
    assert set(n.values()) == {2} and not any(p.held_out for p in found)
    assert found == prompts(TRAIN, 520, seed=3) and found != prompts(TRAIN, 520, seed=4)


def test_prompts_of_held_out_combinations_say_so():
    found = prompts(held_out_combinations(), 60, seed=0, languages=["zh"])
    assert len(found) == 60 and all(p.held_out and is_held_out(p.attrs) and p.lang == "zh" for p in found)


def test_prompts_need_something_to_ask():
    with pytest.raises(ValueError, match="combinations"):
        prompts([], 3, seed=0)


def test_every_kind_and_language_with_paraphrases_from_a_small_vocabulary():
    rng = np.random.default_rng(1)
    chars, words, several = set(), set(), 0
    for i in range(1500):
        a = TRAIN[i % len(TRAIN)]
        group = [a.still()] if i % 5 == 0 else [a]
        c = captions(group, Setting(BACKGROUNDS[i % 5], ("slow", "medium", "fast")[i % 3]), rng, 3)
        assert set(c) == set(KINDS) and all(set(c[k]) == set(LANGUAGES) for k in KINDS)
        for k in KINDS:
            assert all(1 <= len(c[k][lang]) == len(set(c[k][lang])) <= 3 for lang in LANGUAGES)
            chars |= set("".join(c[k]["zh"]))
            words |= set(" ".join(c[k]["en"]).replace(",", " ").replace(".", " ").split())
        several += len(c["short"]["zh"]) > 1 and len(c["short"]["en"]) > 1
    assert several > 1200 and len(chars) + len(words) < 150


def test_dense_captions_always_name_all_and_short_ones_sometimes_leave_out_the_size():
    rng = np.random.default_rng(2)
    full = n = 0
    for i in range(600):
        a = TRAIN[(i * 7) % len(TRAIN)]
        c = captions(a, Setting(), rng, 1)
        for text in c["dense"]["zh"]:
            assert _names(text, "zh", a)
        for text in c["short"]["en"]:
            full += any(s in text.split() for s in EN[a.size])
            n += 1
    assert abs(1 - full / n - OMIT_SIZE) < 0.06


def test_images_name_no_direction():
    rng = np.random.default_rng(3)
    for a in TRAIN[::7]:
        c = captions(a.still(), Setting(), rng)
        text = " ".join(t for k in KINDS for lang in LANGUAGES for t in c[k][lang])
        assert not any(w in text for w in ("移", "mov", "left", "right", "向", "镜头"))
