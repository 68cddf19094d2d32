"""What people are asked of a clip before it may enter an SFT set, and in which form their answers are kept (§7.2).

"Human evaluators assess each video for clarity, aesthetics, appropriate motion, smooth scene transitions, and the
absence of watermarks or subtitles. Captions are also manually refined."
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from stepvideo.data.caption_kinds import LANGUAGES

if TYPE_CHECKING:
    import pyarrow as pa

VERSION = "1"  # of the questions and of the table's columns
QUESTIONS = {  # name: what "pass" means, in English and Chinese
    "clarity": (
        "The picture is sharp and clean: no blur, noise, blocks or stretching.",
        "画面清晰，没有模糊、噪点、马赛克或变形",
    ),
    "aesthetics": ("Framing, light and colour are pleasing.", "构图、光线和色彩美观"),
    "motion": ("Things move as they do, neither frozen nor chaotic.", "运动适度且自然，既不静止也不混乱"),
    "transitions": ("One shot, or smooth transitions; no cut in the middle.", "单镜头，或转场平滑，中间没有硬切"),
    "watermark": ("No watermark, logo, subtitle or other text on the picture.", "画面上没有水印、台标、字幕或其他文字"),
}
PASS, FAIL, UNSURE = "pass", "fail", "unsure"
VERDICTS = (PASS, FAIL, UNSURE)
SLOTS = tuple(f"{kind}_{language}" for kind in ("short", "dense") for language in LANGUAGES)  # captions to correct
ADVICE = "Say what is there: subjects, actions, background, light, camera movement. Leave a caption that is right."


@dataclass(frozen=True)
class Vote:
    """What one annotator says of one clip.

    Attributes:
        annotator: `pseudonym` of a name.
        verdicts: question → verdict, those that were answered.
        captions: slot → the corrected caption, those that were changed.
        where: row of the file that it is from, for messages.
    """

    clip_id: str
    annotator: str
    verdicts: Mapping[str, str]
    captions: Mapping[str, str] = field(default_factory=dict)
    note: str = ""
    where: str = ""


@dataclass(frozen=True)
class Label:
    """What is decided of a clip.

    Attributes:
        approved: True only if every question passes; None while it is open.
        verdicts: question → whether it passes; None while it is open.
        captions: slot → caption.
        decided: "agreed", "majority", "adjudicated", or "open".
        why: what keeps an open one open, with the rows that differ.
    """

    clip_id: str
    approved: bool | None
    verdicts: Mapping[str, bool | None]
    captions: Mapping[str, str]
    decided: str
    votes: tuple[Vote, ...]
    why: str = ""


def pseudonym(name: str) -> str:
    """12 hexadecimal digits for an annotator; who knows the names can make them again."""
    return hashlib.sha256(f"annotator {name.strip().lower()}".encode()).hexdigest()[:12]


def schema() -> pa.Schema:
    """Columns of labels.parquet, one row a clip: what was decided, and every vote that it was decided from.

    The columns NAME_ok and `approved` can be thresholds like those of any side table; null is open. `corrected` is
    JSON, slot → caption.
    """
    import pyarrow as pa

    vote = [("annotator", pa.string()), *((q, pa.string()) for q in QUESTIONS)]
    vote += [("captions", pa.string()), ("note", pa.string())]
    return pa.schema(
        [
            *(("clip_id", pa.string()), ("approved", pa.bool_()), *((f"{q}_ok", pa.bool_()) for q in QUESTIONS)),
            *(("corrected", pa.string()), ("decided", pa.string()), ("annotators", pa.int32())),
            ("votes", pa.list_(pa.struct(vote))),
        ],
        metadata={"version": VERSION, "note": "labels by people (report §7.2); annotators are pseudonyms"},
    )
