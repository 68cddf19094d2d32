"""Captions from measured tags alone, without any model: what they say is true, and it is little.

Nobody looked at the clip, so they name no subject. A clip of the generated world brings its own description, and gets
that and nothing more. Thresholds are rules of thumb; a tag that nobody measured is not mentioned.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np

from stepvideo.config import digest
from stepvideo.curation.captioning.camera import MOVEMENTS
from stepvideo.curation.captioning.facts import Facts
from stepvideo.world import captions as world

DARK, BRIGHT = 60.0, 190.0  # mean brightness, 0 to 255
GREY, PALE, VIVID = 10.0, 40.0, 110.0  # mean saturation, 0 to 255
CALM, SLOW, FAST = 2.0, 12.0, 50.0  # pixels a second at 128 lines
QUOTED = 60  # characters of found text

WORDS = {
    "en": {
        "video": ("a {look}video", "a {look}clip"), "still": ("a {look}picture", "a {look}image"),
        "dark": "dark", "bright": "bright", "grey": "black-and-white", "pale": "pale", "vivid": "vividly coloured",
        "frozen": ("the picture does not move", "the picture stands still"),
        "calm": ("there is hardly any motion", "hardly anything moves"),
        "slow": ("there is slow motion in the picture", "the picture changes slowly"),
        "steady": ("there is steady motion in the picture", "the picture moves at a steady pace"),
        "fast": ("there is fast motion in the picture", "the picture moves quickly"),
        "text": ("the text “{text}” can be read", "it has the text “{text}” in it"),
        "seconds": ("it lasts {seconds:.1f} seconds", "its length is {seconds:.1f} seconds"),
    },
    "zh": {
        "video": ("一段{look}视频", "一个{look}视频片段"), "still": ("一张{look}图片", "一幅{look}画面"),
        "dark": "昏暗", "bright": "明亮", "grey": "黑白", "pale": "色彩淡", "vivid": "色彩鲜艳",
        "frozen": ("画面静止", "画面完全不动"),
        "calm": ("画面几乎没有运动", "画面几乎不变"),
        "slow": ("画面中的运动缓慢", "画面变化缓慢"),
        "steady": ("画面中的运动平稳", "画面以平稳的速度变化"),
        "fast": ("画面中的运动很快", "画面变化迅速"),
        "text": ("可以看到文字“{text}”", "画面中有文字“{text}”"),
        "seconds": ("时长{seconds:.1f}秒", "全长{seconds:.1f}秒"),
    },
}  # fmt: skip
VERSION = (
    "rules-" + digest([WORDS, [(m.zh, m.en) for m in MOVEMENTS], DARK, BRIGHT, GREY, PALE, VIVID, CALM, SLOW, FAST])[:8]
)


def caption(clip_id: str, kind: str, language: str, facts: Facts) -> str:
    """One caption ("short", "dense" or "title"), "" where nothing is known that it could say.

    The wording is drawn by the clip's id: the same clip, the same words.
    """
    seed = hashlib.sha256(f"rule caption {clip_id} {kind} {language}".encode()).digest()[:8]
    rng = np.random.default_rng(int.from_bytes(seed))
    if kind == "title":
        return world.title(facts.objects, language, rng) if facts.objects else ""
    if facts.objects:
        return world.short(facts.objects, language, rng, always_size=kind == "dense")
    look, clauses = _look(facts, language), _clauses(facts, language, rng)
    if not (look or clauses):
        return ""
    subject = _pick(WORDS[language]["still" if facts.still else "video"], rng).format(look=look)
    if kind == "short":
        return ("，" if language == "zh" else ", ").join([subject, *clauses[:2]])
    if facts.seconds:
        clauses.append(_pick(WORDS[language]["seconds"], rng).format(seconds=facts.seconds))
    if language == "zh":
        return "，".join([subject, *clauses]) + "。"
    return " ".join(f"{s[0].upper()}{s[1:]}." for s in [subject, *clauses])


def _look(facts: Facts, language: str) -> str:
    """Adjectives for light and colour, ready to stand before a noun."""
    names = []
    if facts.brightness is not None:
        names += ["dark"] * (facts.brightness < DARK) + ["bright"] * (facts.brightness > BRIGHT)
    if facts.grey or facts.grey is None and facts.saturation is not None and facts.saturation < GREY:
        names.append("grey")
    elif facts.saturation is not None:
        names += ["pale"] * (facts.saturation < PALE) + ["vivid"] * (facts.saturation > VIVID)
    words = [str(WORDS[language][n]) for n in names]
    if not words:
        return ""
    return "、".join(words) + "的" if language == "zh" else ", ".join(words) + " "


def _clauses(facts: Facts, language: str, rng: np.random.Generator) -> list[str]:
    """What can be said of camera, motion and text, one clause each."""
    said, words = [], WORDS[language]
    if facts.frozen:
        said.append(_pick(words["frozen"], rng))
    else:
        if facts.camera:
            said.append(facts.camera.zh if language == "zh" else facts.camera.en)
        if (m := facts.motion) is not None:
            pace = "calm" if m < CALM else "slow" if m < SLOW else "steady" if m < FAST else "fast"
            said.append(_pick(words[pace], rng))
    if facts.text:
        said.append(_pick(words["text"], rng).format(text=" ".join(facts.text.split())[:QUOTED]))
    return said


def _pick(options: Sequence[str], rng: np.random.Generator) -> str:
    return options[int(rng.integers(len(options)))]
