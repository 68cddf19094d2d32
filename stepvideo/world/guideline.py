"""Prompts as people would word them: the guideline of report §4.4 for the small world, and its templates.

The guideline, for whoever writes templates or prompts by it:

1. Write what you would type into a video generator, not what a caption of the finished video would say.
2. One scene a prompt. Name colour, shape, number, size and direction, so that a judge can check all five.
3. The order is yours: begin with what you care about most. Fragments separated by commas are fine, and so is repeating
   the important word. Leave out articles and verbs as people do.
4. No praise ("beautiful", "4k"): it can not be judged here, and the small text encoders do not know the words.
5. As many prompts in Chinese as in English, and no translations of each other.

Captions of the training data follow one grammar a language (`captions.short`); these templates break it, within the
vocabulary that the encoders of the small world have seen. Slots: n, size, colour, shape, direction.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from stepvideo.world.attributes import Attrs, is_held_out
from stepvideo.world.captions import EN, ZH, Prompt
from stepvideo.world.config import LANGUAGES

TEMPLATES: dict[str, tuple[str, ...]] = {
    "zh": (
        "{n}{shape}，{colour}，{size}，向{direction}移动",
        "向{direction}移动，{n}{size}{shape}，{colour}的",
        "{colour}{size}{shape}，{n}，往{direction}边",
        "{n}{colour}的{shape}，{size}的，正在往{direction}移动",
        "{size}{shape}{n}，{colour}，往{direction}移动，移动",
        "画面中{n}{size}的{shape}，{colour}，往{direction}边移动",
    ),
    "en": (
        "{n} {shape}, {colour}, {size}, moving {direction}",
        "moving {direction}: {n} {size} {colour} {shape}",
        "{colour} {shape}, {n}, {size}, moves {direction}",
        "{size} {shape} moving {direction}, {colour}, {n}",
        "{n} {colour} {shape}, {size}, {colour}, moving {direction}",
        "the picture shows {n} {shape} moving {direction}, {size}, {colour}",
    ),
}


def word(attrs: Attrs, lang: str, template: str) -> str:
    """`attrs`, of a moving object, in the words of a template; each with its first name in the captions' vocabulary."""
    assert attrs.direction is not None
    if lang == "zh":
        said = {"n": ZH[attrs.count], "size": ZH[attrs.size], "colour": ZH[attrs.colour], "shape": ZH[attrs.shape][0]}
        return template.format(**said, direction=ZH[attrs.direction])
    said = {"n": "two" if attrs.count == 2 else "one", "size": EN[attrs.size][0], "colour": attrs.colour}
    return template.format(**said, shape=EN[attrs.shape][attrs.count - 1], direction=EN[attrs.direction][1])


def reworded(asked: Sequence[Prompt], share: float, draw: np.random.Generator) -> list[Prompt]:
    """The same prompts, of which `share` (rounded) in the words of the guideline; languages alternate among these."""
    chosen = sorted(draw.permutation(len(asked))[: round(share * len(asked))].tolist())
    out = list(asked)
    for k, i in enumerate(chosen):
        lang, attrs = LANGUAGES[k % len(LANGUAGES)], asked[i].attrs
        template = TEMPLATES[lang][int(draw.integers(len(TEMPLATES[lang])))]
        out[i] = Prompt(word(attrs, lang, template), lang, attrs, is_held_out(attrs))
    return out
