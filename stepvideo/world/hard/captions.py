"""Captions of events in Chinese and English.

Two wordings: `natural` has words that other captions of the world lack ("先", "弹回", "落下", "then", "bounces",
"falls"), so its Chinese cannot be spelled by encoders that were trained without hard scenes; `known` says the movement
in their words alone ("向右移动，向上移动"). Nothing in a caption is false of its clip.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from stepvideo.world.attributes import Attrs
from stepvideo.world.captions import EN, ZH, Setting, en_object, pick, zh_object
from stepvideo.world.config import LANGUAGES
from stepvideo.world.events import BOUNCE, FALL, SEQUENCE, Event

WORDINGS = ("natural", "known")

_ZH = {
    SEQUENCE: ("先向{0}移动，然后向{1}移动", "先向{0}移动，再向{1}移动"),
    BOUNCE: ("向{0}移动，碰到边缘后弹回", "向{0}移动，碰到画面边缘弹回来"),
    FALL: ("从上方落下", "越来越快地落下"),
}
_ZH_KNOWN = {
    SEQUENCE: ("向{0}移动，向{1}移动",),
    BOUNCE: ("向{0}移动，向{1}移动",),
    FALL: ("慢慢地，快速地向下移动",),
}
_EN = {
    SEQUENCE: ("moves {0}, then {1}", "first moves {0} and then moves {1}"),
    BOUNCE: ("moves {0} and bounces off the edge", "moves {0}, hits the edge and bounces back"),
    FALL: ("falls down", "falls faster and faster"),
}
_EN_KNOWN = {
    SEQUENCE: ("moves {0}, moves {1}",),
    BOUNCE: ("moves {0}, moves {1}",),
    FALL: ("moves down slowly, quickly",),
}


def event_caption(
    attrs: Attrs, event: Event, lang: str, rng: np.random.Generator, *, sized: bool = True, wording: str = "natural"
) -> str:
    """What a user would type; with `sized` it names every attribute of the object.

    Raises:
        ValueError: no such language or wording.
    """
    if lang not in LANGUAGES or wording not in WORDINGS:
        raise ValueError(f"{lang!r}, {wording!r}: give one of {', '.join(LANGUAGES)} and of {', '.join(WORDINGS)}")
    if lang == "zh":
        words = [ZH[d] for d in event.directions]
        forms = _ZH if wording == "natural" else _ZH_KNOWN
        return zh_object(attrs, rng, sized) + pick(rng, forms[event.kind]).format(*words)
    words = [EN[d][0] for d in event.directions]
    forms = _EN if wording == "natural" else _EN_KNOWN
    return f"{en_object(attrs, rng, sized)} {pick(rng, forms[event.kind]).format(*words)}"


def event_captions(
    attrs: Attrs, event: Event, setting: Setting, rng: np.random.Generator, n: int
) -> dict[str, dict[str, list[str]]]:
    """{short | dense | title: {language: up to n different paraphrases}}, as `world.captions.captions`."""

    def dense(lang: str) -> str:
        said = event_caption(attrs, event, lang, rng)
        if lang == "zh":
            return f"{said}，{ZH[setting.background]}背景，镜头不动。"
        return f"{said} on {EN[setting.background]}, the camera is still."

    make: dict[str, Callable[[str], str]] = {
        "short": lambda lang: event_caption(attrs, event, lang, rng),
        "dense": dense,
        "title": lambda lang: event_caption(attrs, event, lang, rng, sized=False),
    }
    return {
        kind: {lang: list(dict.fromkeys(said(lang) for _ in range(n))) for lang in LANGUAGES}
        for kind, said in make.items()
    }
