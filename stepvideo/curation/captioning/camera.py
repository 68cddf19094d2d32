"""Camera movements, shot sizes and angles: the words for them, and which of them a caption names.

The report trains its captioner on "common camera movements and shooting angles" (§7.1) and lists none. The movements
are those that its image-to-video successor takes as prompts (pan, tilt, zoom, dolly, rotation, tracking, orbit, rack
focus) with the rest of the usual set; sizes and angles are those of film schools.
"""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass


def _to(side: str) -> str:
    """“to the left”, “left”, “(from) right to left”; not “left to right”."""
    way = r"(?:(?:(?:from\s+)?(?:the\s+)?\w+\s+)?(?:to|towards?)\s+(?:the\s+)?)"
    return rf"(?:\s+\w+ly)?\s+{way}?{side}(?:wards?)?\b(?!\s+to\s+(?:the\s+)?(?:left|right))"


def _zh(side: str, verbs: str) -> str:
    return rf"[向往到]?{side}(?:侧|边|方)?(?:缓慢|缓缓|慢慢|平稳|快速)?地?[{verbs}]"


@dataclass(frozen=True)
class Movement:
    """A camera movement.

    Attributes:
        name: label in tables and in the camera-motion set.
        seen: what optical flow can tell of it: "static", "left", "right", "up", "down", "in", "out", "roll"; "" where
            it cannot tell. A pan and a truck to one side look alike.
        zh, en: the phrase a caption has for it.
        own: pattern of English words that only a camera does ("pans left").
        shared: pattern of English words that count after "the camera" or before "camera", "shot" ("moves left").
        said_zh: pattern of Chinese words that count after 镜头.
    """

    name: str
    seen: str
    zh: str
    en: str
    own: str
    shared: str
    said_zh: str

    def pattern(self) -> re.Pattern[str]:
        also = "is|was|are|then|also|and|begins?|starts?|continues?|to|remains?|stays?|kept|held|being|mostly|movement"
        after = rf"\bcamera(?:\s+(?:{also}|\w+ly))*\s+(?:{self.shared})\b"
        before = rf"\b(?:{self.shared})\s+(?:camera|shot)\b"
        noun, then = "(?:镜头|摄像机|摄影机|相机|机位)", "[^。；没不无未]{0,12}(?:再|然后|随后|接着|并)"
        chinese = rf"{noun}(?:{then})?[^。；，、中里前没不无未]{{0,6}}?(?:{self.said_zh})|(?:{self.said_zh}){noun}"
        own = [rf"\b(?:{self.own})"] if self.own else []
        return re.compile("|".join([*own, after, before, chinese]), re.IGNORECASE)


_PAN, _TILT = "pan(?:s|ning|ned)?", "tilt(?:s|ing|ed)?"
_TRUCK, _SLIDE = "truck(?:s|ing|ed)?", "(?:mov|slid|glid|travel|shift)(?:e?s|ing|e?d|e)?"
_ZOOM, _DOLLY = "zoom(?:s|ing|ed)?", "doll(?:y|ies|ying|ied)"
MOVEMENTS: tuple[Movement, ...] = (
    Movement("static", "static", "镜头固定不动", "the camera is static",
             r"no camera (?:movement|motion)|locked[- ]off",
             r"static|still|stationary|fixed|motionless|does(?: not|n't) move", "固定|静止|不动"),
    Movement("pan_left", "left", "镜头向左摇", "the camera pans left", _PAN + _to("left"),
             "turns?" + _to("left"), _zh("左", "摇转扫")),
    Movement("pan_right", "right", "镜头向右摇", "the camera pans right", _PAN + _to("right"),
             "turns?" + _to("right"), _zh("右", "摇转扫")),
    Movement("tilt_up", "up", "镜头向上摇", "the camera tilts up", _TILT + _to("up"), "looks? up", _zh("上", "摇仰抬")),
    Movement("tilt_down", "down", "镜头向下摇", "the camera tilts down", _TILT + _to("down"), "looks? down",
             _zh("下", "摇俯压")),
    Movement("zoom_in", "in", "镜头推近放大", "the camera zooms in", _ZOOM + r"(?:\s+\w+ly)?[- ]in\b", "zoom-in",
             "放大|推近|拉近"),
    Movement("zoom_out", "out", "镜头拉远缩小", "the camera zooms out", _ZOOM + r"(?:\s+\w+ly)?[- ]out\b", "zoom-out",
             "缩小|拉远"),
    Movement("dolly_in", "in", "镜头向前推进", "the camera dollies in", _DOLLY + r"[- ](?:in|forwards?)\b",
             r"(?:push(?:es|ing)? in|(?:moves?|moving) (?:\w+ly )?(?:in|closer|forwards?))", "推进|前推|向前移"),
    Movement("dolly_out", "out", "镜头向后拉远", "the camera dollies out", _DOLLY + r"[- ](?:out|back(?:wards?)?)\b",
             r"(?:pull(?:s|ing)? (?:back|out)|(?:moves?|moving) (?:\w+ly )?(?:back(?:wards?)?|away))",
             "后拉|后退|向后移"),
    Movement("truck_left", "left", "镜头向左平移", "the camera trucks left", _TRUCK + _to("left"), _SLIDE + _to("left"),
             _zh("左", "平移滑")),
    Movement("truck_right", "right", "镜头向右平移", "the camera trucks right", _TRUCK + _to("right"),
             _SLIDE + _to("right"), _zh("右", "平移滑")),
    Movement("pedestal_up", "up", "镜头上升", "the camera rises", "",
             r"ris(?:es?|ing)|(?:cranes?|moves?|moving) up(?:wards?)?",
             "升高|升起|" + _zh("上", "升移")),
    Movement("pedestal_down", "down", "镜头下降", "the camera descends", "",
             r"descend(?:s|ing)?|lower(?:s|ing)|(?:cranes?|moves?|moving) down(?:wards?)?",
             "降低|" + _zh("下", "降移")),
    Movement("roll", "roll", "镜头旋转", "the camera rolls", "", r"roll(?:s|ing)?|rotat(?:es?|ing)|spin(?:s|ning)?",
             "旋转|翻滚"),
    Movement("orbit", "", "镜头环绕主体", "the camera orbits the subject", "",
             r"orbit(?:s|ing)?|circl(?:es?|ing)|arc(?:s|ing)? around", "环绕|绕着"),
    Movement("tracking", "", "镜头跟随主体移动", "the camera follows the subject", "",
             r"track(?:s|ing)?|follow(?:s|ing)?", "跟随|跟拍|追踪"),
    Movement("rack_focus", "", "镜头移焦", "the focus shifts", r"rack(?:s|ing)? focus|focus shifts", "refocus(?:es)?",
             "移焦|变换焦点"),
    Movement("handheld", "", "手持镜头晃动", "the camera is handheld", "hand-?held", r"shak(?:y|es|ing)",
             "手持|晃动|抖动"),
)  # fmt: skip
BY_NAME = {m.name: m for m in MOVEMENTS}

SIZES = {
    "extreme close-up": "大特写", "close-up": "特写", "medium close-up": "近景", "medium shot": "中景",
    "full shot": "全景", "long shot": "远景", "extreme long shot": "大远景",
}  # fmt: skip
ANGLES = {
    "eye-level": "平视", "low angle": "仰拍", "high angle": "俯拍", "overhead": "顶拍", "aerial": "航拍",
    "over-the-shoulder": "过肩", "first-person": "第一人称", "Dutch angle": "倾斜构图",
}  # fmt: skip

_SAID = [(m, m.pattern()) for m in MOVEMENTS]
_DENIED = re.compile(r"(?:\b(?:no|not|never|without)|n't)\s+(?:\w+ly\s+)?$", re.IGNORECASE)


@functools.lru_cache(maxsize=2**16)  # short captions repeat
def named(text: str) -> tuple[Movement, ...]:
    """The movements that a caption says the camera makes, in the order of `MOVEMENTS`; denied ones are left out."""
    return tuple(m for m, said in _SAID if any(not _DENIED.search(text[: hit.start()]) for hit in said.finditer(text)))


@functools.lru_cache(maxsize=2**16)
def without(text: str) -> str:
    """A caption without what it says of the camera's movement."""
    for _, said in _SAID:
        text = said.sub(" ", text)
    return text


def movement(label: str) -> Movement | None:
    """The movement that a measured tag or a person names: "pan_left", "Pan left", "zoom-in", …; None for any other."""
    return BY_NAME.get(re.sub(r"[\s-]+", "_", label.strip().lower()))
