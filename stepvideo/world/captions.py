"""Captions and prompts in Chinese and English, from a small fixed vocabulary.

Kinds: `short` (what a user would type), `dense` (short plus background, pace and camera) and `title`. Prompts for
evaluation (`prompts`) always name all five attributes, so that every attribute can be asked for; training `short`
captions leave the size out with probability `OMIT_SIZE`, because people's prompts do ("一个红色的圆向右移动").
Images name no direction. Nothing in a caption is false of its clip.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from stepvideo.world.attributes import Attrs, is_held_out
from stepvideo.world.config import LANGUAGES

KINDS = ("short", "dense", "title")
OMIT_SIZE = 0.2

ZH = {
    "red": "红色", "yellow": "黄色", "green": "绿色", "cyan": "青色", "blue": "蓝色", "purple": "紫色",
    "circle": ("圆", "圆形"), "square": ("方块", "方形"), "triangle": ("三角形", "三角"),
    "left": "左", "right": "右", "up": "上", "down": "下",
    "small": "小", "large": "大", 1: "一个", 2: "两个",
    "plain": "单色", "gradient": "渐变", "noise": "云雾", "stripes": "条纹", "checks": "格子",
    "slow": "慢慢地", "medium": "平稳地", "fast": "快速地",
}  # fmt: skip
EN = {
    "circle": ("circle", "circles"), "square": ("square", "squares"), "triangle": ("triangle", "triangles"),
    "small": ("small", "little"), "large": ("large", "big"),
    "left": ("left", "to the left"), "right": ("right", "to the right"), "up": ("up", "upwards"),
    "down": ("down", "downwards"),
    "plain": "a plain background", "gradient": "a gradient background", "noise": "a cloudy background",
    "stripes": "a striped background", "checks": "a checked background",
    "slow": "slowly", "medium": "steadily", "fast": "quickly",
}  # fmt: skip


@dataclass(frozen=True)
class Setting:
    """What a dense caption adds: a background kind and a pace (slow, medium, fast)."""

    background: str = "plain"
    pace: str = "medium"


@dataclass(frozen=True)
class Prompt:
    """A text to generate from, and the truth to judge the video by."""

    text: str
    lang: str
    attrs: Attrs
    held_out: bool


def pick(rng: np.random.Generator, options: Sequence[str]) -> str:
    return options[int(rng.integers(len(options)))]


def zh_object(a: Attrs, rng: np.random.Generator, sized: bool) -> str:
    """一个红色的大圆 · 一个大的红色圆形"""
    n, colour, shape = ZH[a.count], ZH[a.colour], pick(rng, ZH[a.shape])
    if not sized:
        return f"{n}{colour}的{shape}"
    size = ZH[a.size]
    return f"{n}{colour}的{size}{shape}" if rng.random() < 0.7 else f"{n}{size}的{colour}{shape}"


def en_object(a: Attrs, rng: np.random.Generator, sized: bool) -> str:
    """a large red circle · two small blue squares"""
    n = "two" if a.count == 2 else pick(rng, ("a", "a", "one"))
    size = f"{pick(rng, EN[a.size])} " if sized else ""
    return f"{n} {size}{a.colour} {EN[a.shape][a.count - 1]}"


def _zh_clause(a: Attrs, rng: np.random.Generator, sized: bool, pace: str = "") -> str:
    thing = zh_object(a, rng, sized)
    if a.direction is None:
        return thing
    d, how = ZH[a.direction], ZH[pace] if pace else ""
    if pace:
        return f"{thing}{how}向{d}移动"
    plain = f"{thing}向{d}移动"
    return pick(rng, (plain, plain, f"{thing}往{d}边移动", f"{thing}正在向{d}移动", f"向{d}移动的{thing}"))


def _en_clause(a: Attrs, rng: np.random.Generator, sized: bool, pace: str = "") -> str:
    thing = en_object(a, rng, sized)
    if a.direction is None:
        return thing
    d, plural = pick(rng, EN[a.direction]), a.count == 2
    moves, is_ = ("move", "are") if plural else ("moves", "is")
    if pace:
        return f"{thing} {moves} {EN[pace]} {d}"
    plain = f"{thing} {moves} {d}"
    return pick(rng, (plain, plain, f"{thing} {is_} moving {d}", f"{thing} moving {d}"))


def short(attrs: Sequence[Attrs], lang: str, rng: np.random.Generator, *, always_size: bool = False) -> str:
    """One short caption. With `always_size` every attribute is named."""
    sized = always_size or rng.random() >= OMIT_SIZE
    if lang == "zh":
        return "，".join(_zh_clause(a, rng, sized) for a in attrs)
    return " and ".join(_en_clause(a, rng, sized) for a in attrs)


def dense(attrs: Sequence[Attrs], lang: str, rng: np.random.Generator, setting: Setting) -> str:
    """One dense caption: every attribute, the background, the camera, and the pace of a single object."""
    moving = any(a.direction for a in attrs)
    pace = setting.pace if len(attrs) == 1 else ""
    if lang == "zh":
        what = "，".join(_zh_clause(a, rng, True, pace) for a in attrs)
        where, camera = f"{ZH[setting.background]}背景", "，镜头不动" if moving else ""
        about = f"{what}，{where}{camera}。"
        return pick(rng, (f"{where}上，{what}{camera}。", about, f"画面中{about}"))
    what = " and ".join(_en_clause(a, rng, True, pace) for a in attrs)
    where, camera = EN[setting.background], ", the camera is still" if moving else ""
    return pick(
        rng,
        (
            f"on {where}, {what}{camera}.",
            f"{what} on {where}{camera}.",
            f"the picture shows {what} on {where}{camera}.",
        ),
    )


def title(attrs: Sequence[Attrs], lang: str, rng: np.random.Generator) -> str:
    """One title: colour, shape and direction."""
    if lang == "zh":
        return "，".join(
            f"{ZH[a.direction] + '移的' if a.direction else ''}{ZH[a.colour]}{pick(rng, ZH[a.shape])}" for a in attrs
        )
    return " and ".join(
        f"{a.colour} {EN[a.shape][a.count - 1]}{' moving ' + EN[a.direction][0] if a.direction else ''}" for a in attrs
    )


def captions(
    attrs: Attrs | Sequence[Attrs], setting: Setting, rng: np.random.Generator, n: int = 3
) -> dict[str, dict[str, list[str]]]:
    """{kind: {language: up to n different paraphrases}}, at least one each."""
    group = (attrs,) if isinstance(attrs, Attrs) else tuple(attrs)
    out: dict[str, dict[str, list[str]]] = {}
    for kind in KINDS:
        out[kind] = {}
        for lang in LANGUAGES:
            make = {
                "short": lambda lang=lang: short(group, lang, rng),
                "dense": lambda lang=lang: dense(group, lang, rng, setting),
                "title": lambda lang=lang: title(group, lang, rng),
            }[kind]
            out[kind][lang] = list(dict.fromkeys(make() for _ in range(n)))
    return out


def prompts(combos: Sequence[Attrs], n: int, seed: int, languages: Sequence[str] = LANGUAGES) -> list[Prompt]:
    """`n` prompts for evaluation that name all five attributes.

    Combinations are taken in shuffled rounds, so that counts of any two differ by at most one; languages alternate.
    """
    if not combos or not languages:
        raise ValueError(f"prompts needs combinations and languages; got {len(combos)} and {list(languages)}")
    rng = np.random.default_rng(seed)
    order: list[int] = []
    while len(order) < n:
        order += [int(i) for i in rng.permutation(len(combos))]
    out = []
    for k, i in enumerate(order[:n]):
        lang = languages[k % len(languages)]
        out.append(Prompt(short([combos[i]], lang, rng, always_size=True), lang, combos[i], is_held_out(combos[i])))
    return out


def phrase(prompt: Prompt, attribute: str) -> str:
    """The words by which a prompt of `prompts` names an attribute, such as "circle" or "向右移动".

    Raises:
        ValueError: the prompt does not name it.
    """
    value = getattr(prompt.attrs, attribute)
    said = ZH[value] if prompt.lang == "zh" else EN.get(value, str(value))
    if attribute == "direction" and prompt.lang == "zh":
        said = (f"向{said}移动", f"往{said}边移动")
    elif attribute == "count" and prompt.lang == "en":
        said = ("two",) if value == 2 else ("one", "a")
    options = sorted((said,) if isinstance(said, str) else said, key=len, reverse=True)
    edge = r"\b" if prompt.lang == "en" else ""
    for words in options:
        if re.search(f"{edge}{re.escape(words)}{edge}", prompt.text):
            return words
    raise ValueError(f"{prompt.text!r} does not name its {attribute} by one of {', '.join(options)}")
