"""Prompts worded by the guideline: within the encoders' vocabulary, five attributes each, none of them a caption."""

from __future__ import annotations

import re

import numpy as np
import pytest

from stepvideo.world.attributes import NAMES, train_combinations
from stepvideo.world.captions import Setting, captions, prompts
from stepvideo.world.guideline import TEMPLATES, reworded, word


def words(text: str, lang: str) -> set[str]:
    return set(re.findall(r"[\w]", text)) if lang == "zh" else set(re.findall(r"[a-z]+", text))


@pytest.mark.parametrize("lang", ["zh", "en"])
def test_templates_stay_within_the_captions_vocabulary_and_tell_combinations_apart(lang):
    draw, known = np.random.default_rng(0), set()
    for attrs in train_combinations():
        for kind in captions(attrs, Setting(), draw, 6).values():
            known |= {w for text in kind[lang] for w in words(text, lang)}
    for template in TEMPLATES[lang]:
        said = {word(a, lang, template) for a in train_combinations()}
        assert len(said) == len(train_combinations()), f"{template} leaves out one of {NAMES}"
        assert set().union(*(words(t, lang) for t in said)) <= known


def test_a_share_of_the_prompts_is_reworded():
    asked = prompts(train_combinations(), 40, 0)
    assert reworded(asked, 0.0, np.random.default_rng(0)) == asked
    other = reworded(asked, 0.3, np.random.default_rng(0))
    changed = [(a, b) for a, b in zip(asked, other, strict=True) if a != b]
    assert len(changed) == 12 and all(a.attrs == b.attrs and not b.held_out for a, b in changed)
    assert sum(b.lang == "zh" for _, b in changed) == 6
