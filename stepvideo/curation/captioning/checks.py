"""What a caption claims, against what was measured; and whether it reads like a caption at all.

Every check returns (flag, reason) pairs and removes nothing. They doubt, they do not prove: a red fox may well be named
in a picture of little colour.

    camera      a movement that the measured one rules out, or any movement of a still
    quotation   quoted words that were not found in the picture
    text        it speaks of subtitles or writing where none was found
    colour      it names colours in a grey picture, or calls a colourful one black and white
    objects     a colour, shape or direction of the generated world that the clip does not have
    language    it is in another language than it is listed under
    length      shorter or longer than captions of its kind
    refusal, boilerplate, markup, loop, repeated    phrases of models that did not describe what they saw
    clip_score  a CLIP sees little of it in the clip (`alignment`)
"""

from __future__ import annotations

import difflib
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from stepvideo.curation.captioning.camera import named, without
from stepvideo.curation.captioning.config import ChecksConfig
from stepvideo.curation.captioning.facts import Facts
from stepvideo.curation.captioning.reply import refusal
from stepvideo.world.attributes import COLOURS, DIRECTIONS, SHAPES
from stepvideo.world.captions import ZH

Flag = tuple[str, str]

_QUOTED = re.compile(r"“([^”]+)”|\"([^\"]+)\"|「([^」]+)」|『([^』]+)』|‘([^’]{2,})’(?!\w)")
_HAN = re.compile(r"[\u3400-\u9fff]")
_LETTER = re.compile(r"[^\W\d_]")
_WRITING = re.compile(
    r"\b(?:subtitles?|(?:captions?|text) (?:read|say|appear)s?|(?:on-?screen|overlaid) text|watermark)\b"
    r"|字幕|写着|文字|水印",
    re.IGNORECASE,
)
_COLOURED = re.compile(
    r"\b(?:red|orange|yellow|green|cyan|blue|purple|violet|pink|magenta|colou?rful|vivid(?:ly)?)\b"
    r"|[红橙黄绿青蓝紫粉]色|色彩(?:鲜艳|丰富|斑斓)|五颜六色",
    re.IGNORECASE,
)
_COLOURLESS = re.compile(
    r"\bblack[- ]and[- ]white (?:film|video|clip|footage|photo\w*|picture|image|scene|shot|style)|\bmonochrom\w+"
    r"|\bgr[ea]y-?scale\b|黑白(?:的)?(?:画面|影像|影片|视频|照片|图片|图像|镜头|风格|色调|电影)",
    re.IGNORECASE,
)
_BOILERPLATE = re.compile(
    r"^\s*(?:here (?:is|are)|sure[,!]|the (?:video|clip|image|picture|footage) (?:shows|depicts|captures|features))"
    r"|\b(?:provided|given|these|first|last|each|\d+) (?:video )?(?:frames|images)\b|\bin (?:this|the) video\b"
    r"|^\s*(?:这|该|本)?(?:段|个|张|幅)?(?:视频|画面|图片)(?:中)?(?:展示|描述|呈现|显示)了|提供的(?:帧|图片|画面)|第.帧",
    re.IGNORECASE,
)
_MARKUP = re.compile(
    r"\*\*|```|^\s*[#>-] |</?\w+>|^\s*(?:short|dense|title|caption|短描述|标题)\s*[:：]|\{\"", re.IGNORECASE
)


def check(row: Mapping[str, Any], facts: Facts, config: ChecksConfig) -> list[Flag]:
    """Flags of one row of captions.parquet. `facts` are of its clip; checks of what was not measured are left out."""
    text, language = row["text"], row["language"]
    flags = [*_camera(text, facts), *_text(text, facts, config), *_colour(text, facts, config)]
    if (score := row["clip_score"]) is not None and score < config.clip_score:
        flags.append(("clip_score", f"{score:.3f}, under {config.clip_score:g}"))
    if row["source"] != "rule":  # rules take their words from the truth, and have few
        flags += [*_objects(text, language, facts), *_length(text, row["kind"], language, config)]
    flags += _language(text, language)
    return [*flags, *_manners(text, language)] if row["source"] == "vlm" else flags


def repeated(rows: Sequence[Mapping[str, Any]], config: ChecksConfig) -> dict[str, int]:
    """Texts that a model gave to `config.repeats` clips or more, and to how many. Rules and titles may repeat."""
    clips = {(r["text"], r["clip_id"]) for r in rows if r["source"] == "vlm" and r["kind"] != "title"}
    return {text: n for text, n in Counter(text for text, _ in clips).items() if n >= config.repeats}


def units(text: str, language: str) -> list[str]:
    """What lengths and n-grams count: words, and in Chinese characters."""
    return re.findall(r"[\u3400-\u9fff]|\w+" if language == "zh" else r"\w+(?:['’-]\w+)*", text.lower())


def _camera(text: str, facts: Facts) -> Iterator[Flag]:
    moves = named(text)
    if facts.still:
        if said := [m.name for m in moves if m.seen != "static"]:
            yield "camera", f"{', '.join(said)} in a still"
    elif facts.camera:
        seen = {m.seen for m in moves if m.seen}
        if seen and facts.camera.seen not in seen if facts.camera.seen else seen == {"static"}:
            yield "camera", f"{', '.join(m.name for m in moves if m.seen)}; measured {facts.camera.name}"


def _text(text: str, facts: Facts, config: ChecksConfig) -> Iterator[Flag]:
    if facts.text is None:
        return
    found = _plain(facts.text)
    for quoted in (next(filter(None, hit.groups())) for hit in _QUOTED.finditer(text)):
        share = _contained(_plain(quoted), found)
        if share < config.text_match:
            yield "quotation", f"“{quoted[:60]}” is to {share:.0%} in the text found"
    if not found and (said := _first(_WRITING, text)):
        yield "text", f"{said!r}; no text was found"


def _colour(text: str, facts: Facts, config: ChecksConfig) -> Iterator[Flag]:
    grey, saturation = facts.grey, facts.saturation
    if grey is None and saturation is not None:
        grey = saturation < config.grey_below
    at = f"greyscale {grey}, saturation {saturation if saturation is None else round(saturation, 1)}"
    if grey and (said := _first(_COLOURED, text)):
        yield "colour", f"{said!r}; {at}"
    if not grey and saturation is not None and saturation > config.colour_above and (said := _first(_COLOURLESS, text)):
        yield "colour", f"{said!r}; {at}"


def _objects(text: str, language: str, facts: Facts) -> Iterator[Flag]:
    """The world's words are few and exact, so that what is named can be compared with what is there."""
    if not facts.objects:
        return
    text = without(text)
    for attribute, values in (("colour", COLOURS), ("shape", SHAPES), ("direction", DIRECTIONS)):
        there = {getattr(o, attribute) for o in facts.objects}
        for value in values:
            if value not in there and re.search(_world_word(attribute, value, language), text, re.IGNORECASE):
                yield "objects", f"{attribute} {value}; there is {', '.join(str(v) for v in sorted(map(str, there)))}"


def _world_word(attribute: str, value: str, language: str) -> str:
    if attribute == "direction":
        return rf"[向往]{ZH[value]}|{ZH[value]}移" if language == "zh" else rf"\b{value}(?:wards?)?\b"
    if language == "zh":
        words = ZH[value]
        return "|".join((words,) if isinstance(words, str) else words)
    return rf"\b{value}s?\b" if attribute == "shape" else rf"\b{value}\b"


def _length(text: str, kind: str, language: str, config: ChecksConfig) -> Iterator[Flag]:
    if kind == "title":
        return
    least, most = config.short_words if kind == "short" else config.dense_words
    words = len(units(text, language)) / (1.5 if language == "zh" else 1)
    if not least <= words <= most:
        yield "length", f"{words:.0f} words; {kind} captions have {least} to {most}"


def _language(text: str, language: str) -> Iterator[Flag]:
    letters = _LETTER.findall(_QUOTED.sub("", text))
    han = sum(bool(_HAN.match(c)) for c in letters)
    if letters and (han < 0.5 * len(letters) if language == "zh" else han > 0.1 * len(letters)):
        yield "language", f"{han / len(letters):.0%} of its letters are Chinese"


def _manners(text: str, language: str) -> Iterator[Flag]:
    """Bad habits of models."""
    for name, found in (
        ("refusal", refusal([text])),
        ("boilerplate", _first(_BOILERPLATE, text)),
        ("markup", _first(_MARKUP, text)),
        ("loop", _loop(units(text, language))),
    ):
        if found:
            yield name, found[:80]


def _loop(words: Sequence[str], size: int = 4, times: int = 3) -> str:
    """A run of `size` words that comes `times` times, as in answers that never end."""
    grams = Counter(zip(*(words[i:] for i in range(size))))
    worst = max(grams.items(), key=lambda item: item[1], default=((), 0))
    return f"{' '.join(worst[0])} ({worst[1]} times)" if worst[1] >= times else ""


def _first(pattern: re.Pattern[str], text: str) -> str:
    hit = pattern.search(text)
    return hit[0].strip() if hit else ""


def _plain(text: str) -> str:
    return "".join(re.findall(r"\w", text)).lower()


def _contained(part: str, whole: str) -> float:
    """Share of `part` that is in `whole`, in order, letting single misread characters pass."""
    if not part or part in whole:
        return 1.0
    same = difflib.SequenceMatcher(None, part, whole, autojunk=False).get_matching_blocks()
    return sum(m.size for m in same if m.size >= min(2, len(part))) / len(part)
