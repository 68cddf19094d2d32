"""What the vision-language model is asked: one request a clip and language, for all its kinds of captions (§7.1).

The pictures come first and the words last, so that a server's prefix cache sees the pictures of a clip once for both
languages. `VERSION` follows the templates by itself.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from stepvideo.config import digest
from stepvideo.curation.captioning.camera import ANGLES, MOVEMENTS, SIZES
from stepvideo.curation.captioning.facts import Facts
from stepvideo.curation.captioning.reply import schema

MAX_TEXT = 200  # characters of found text that a hint quotes

EN = {
    "clip": "These are {n} frames of one video clip of {seconds:.1f} seconds, in order and evenly spread.",
    "still": "This is one picture.",
    "task": "Describe the {medium} in English. Write:",
    "short": "- short: one sentence of at most 25 words with the main subject and what it does, and nothing else, in "
    "the words that a person would type to ask for such a {medium}.",
    "dense": "- dense: one paragraph of 60 to 150 words. Say, as far as it can be seen: the main subject and how it "
    "looks; what happens, in order; the surroundings and the objects in them; colours and light; the type of {medium} "
    "and its visual style; the shot size and the camera angle{movement}.",
    "movement": "; how the camera moves",
    "title": "- title: a title of at most 12 words, as the person who made it would give.",
    "words": "Shot sizes: {sizes}. Camera angles: {angles}.",
    "moves": "For the camera's movement use these terms where one fits: {moves}.",
    "camera": "Measured: {camera}. Say nothing else about the camera's movement.",
    "text": "Text recognised by machine, perhaps with errors: {text}. Quote only what you can read yourself.",
    "no_text": "No written text was found in it.",
    "rules": "Describe only what can be seen: no guesses at names, places, reasons, sounds, or what comes before and "
    "after. Do not write about frames, measurements or these instructions, and do not begin with “The {medium} shows”.",
    "answer": "Answer with one JSON object with the keys {keys}, each a string, and nothing else.",
    "repair": "That cannot be used: {fault}. Answer again with one JSON object with the keys {keys}, each a string, "
    "and nothing else.",
    "media": ("video", "picture"),
}
ZH = {
    "clip": "以下是一段 {seconds:.1f} 秒视频中按时间顺序均匀抽取的 {n} 帧画面。",
    "still": "以下是一张图片。",
    "task": "请用简体中文描述上面的{medium}，写出：",
    "short": "- short：一句话，不超过 40 个字，只写主体及其动作，用普通用户想生成这样的{medium}时会输入的说法。",
    "dense": "- dense：一段 120 到 300 字的描述。在能看到的范围内依次写出：主体及其外观；按先后顺序发生的事情；"
    "环境和其中的物体；色彩与光线；{medium}类型与视觉风格；景别和拍摄角度{movement}。",
    "movement": "；镜头如何运动",
    "title": "- title：标题，不超过 20 个字，像作者本人会起的那样。",
    "words": "景别用语：{sizes}。拍摄角度用语：{angles}。",
    "moves": "镜头运动请尽量使用以下说法：{moves}。",
    "camera": "测量结果：{camera}。不要写其他镜头运动。",
    "text": "机器识别出的文字（可能有误）：{text}。只引用你自己能看清的文字。",
    "no_text": "没有检测到文字。",
    "rules": "只描述看得见的内容：不要猜测姓名、地点、原因、声音，也不要猜测前后发生的事。"
    "不要提到帧、测量结果或这些要求，也不要以“{medium}展示了”开头。",
    "answer": "只回答一个 JSON 对象，键为 {keys}，值均为字符串，不要有其他内容。",
    "repair": "这个回答无法使用：{fault}。请重新回答：只给出一个 JSON 对象，键为 {keys}，值均为字符串。",
    "media": ("视频", "图片"),
}
TEMPLATES = {"en": EN, "zh": ZH}
VERSION = "prompt-" + digest([TEMPLATES, SIZES, ANGLES, [(m.zh, m.en) for m in MOVEMENTS]])[:8]


def instruction(kinds: Sequence[str], language: str, facts: Facts, pictures: int, hints: bool) -> str:
    """The words of a request. With `hints` they tell the measured camera motion and the text found in the picture."""
    t = TEMPLATES[language]
    medium = t["media"][facts.still]
    lines = [t["still"] if facts.still else t["clip"].format(n=pictures, seconds=facts.seconds)]
    lines.append(t["task"].format(medium=medium))
    lines += [t[k].format(medium=medium, movement="" if facts.still else t["movement"]) for k in kinds]
    zh = language == "zh"
    if "dense" in kinds:
        comma = "、" if zh else ", "
        sizes, angles = ((d.values() if zh else d.keys()) for d in (SIZES, ANGLES))
        lines.append(t["words"].format(sizes=comma.join(sizes), angles=comma.join(angles)))
        if not facts.still:
            lines.append(t["moves"].format(moves=comma.join(m.zh if zh else m.en for m in MOVEMENTS)))
    if hints and facts.camera and not facts.still and "dense" in kinds:
        lines.append(t["camera"].format(camera=facts.camera.zh if zh else facts.camera.en))
    if hints and facts.text is not None:
        quoted = json.dumps(facts.text[:MAX_TEXT], ensure_ascii=False)
        lines.append(t["text"].format(text=quoted) if facts.text else t["no_text"])
    lines += [t["rules"].format(medium=medium), t["answer"].format(keys=", ".join(kinds))]
    return "\n".join(lines)


def messages(urls: Sequence[str], words: str) -> list[dict[str, Any]]:
    """The chat that asks: the pictures (data URLs), then the words."""
    pictures = [{"type": "image_url", "image_url": {"url": url}} for url in urls]
    return [{"role": "user", "content": [*pictures, {"type": "text", "text": words}]}]


def repair(asked: list[dict[str, Any]], answer: str, fault: str, kinds: Sequence[str], language: str) -> list[dict]:
    """The same chat, with an answer that was no good and what was wrong with it."""
    again = TEMPLATES[language]["repair"].format(fault=fault, keys=", ".join(kinds))
    return [*asked, {"role": "assistant", "content": answer}, {"role": "user", "content": again}]


def response_format(name: str, kinds: Sequence[str]) -> dict[str, Any] | None:
    """The request's `response_format` for `ModelConfig.response_format`; None for "none"."""
    if name == "json_schema":
        return {"type": name, "json_schema": {"name": "captions", "strict": True, "schema": schema(kinds)}}
    return {"type": name} if name == "json_object" else None
