"""SFT labelling as a study (report §7.2): the questions of `curation.labelling`, and answers in the form it imports.

The study asks what tasks.csv asks, in the same words and with the same answers, so `stepvideo label import` decides,
adjudicates and writes labels.parquet whichever way people answered.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Any

from stepvideo import storage
from stepvideo.curation.labelling.questions import ADVICE, FAIL, PASS, QUESTIONS, SLOTS, UNSURE
from stepvideo.curation.labelling.tasks import current_captions
from stepvideo.data.caption_kinds import LANGUAGES
from stepvideo.errors import StepVideoError
from stepvideo.preference.table import Labels

NOTE = "note"
NAMES = {  # question or slot: in Chinese; the English name is its id
    **{"clarity": "清晰度", "aesthetics": "美感", "motion": "运动", "transitions": "转场", "watermark": "水印与字幕"},
    **{"short_zh": "短标注（中文）", "short_en": "短标注（英文）"},
    **{"dense_zh": "详细标注（中文）", "dense_en": "详细标注（英文）", NOTE: "备注"},
}
OPTIONS = {PASS: ("Yes", "是"), FAIL: ("No", "否"), UNSURE: ("Not sure", "不确定")}
ADVICE_ZH = "写出画面里有什么：主体、动作、背景、光线、镜头运动。正确的标注不用改。"


def questions() -> list[dict[str, Any]]:
    """The texts of a study of kind `label`: {id, type, name, help, options} of each question, in zh and en."""
    verdicts = [{"value": value, "en": english, "zh": chinese} for value, (english, chinese) in OPTIONS.items()]
    asked = [_asked(name, "choice", *both) | {"options": verdicts} for name, both in QUESTIONS.items()]
    return [*asked, *(_asked(s, "text", ADVICE, ADVICE_ZH) for s in SLOTS), _asked(NOTE, "text", "", "")]


def write(path: Path, rows: Sequence[Labels], clips: Collection[str]) -> int:
    """The answers as a CSV that `stepvideo label import` takes; their number. Skipped clips have no answer.

    Args:
        clips: those that were exported to be labelled; they are the study's prompt ids.

    Raises:
        StepVideoError: the study asks for other clips.
    """
    if strange := sorted({r.item.prompt_id for r in rows} - set(clips)):
        raise StepVideoError(f"the study has clip {strange[0]}, which is not among the {len(clips)} exported ones")
    text = io.StringIO()
    writer = csv.DictWriter(text, ("clip_id", "annotator", *QUESTIONS, *SLOTS, NOTE), restval="", lineterminator="\n")
    writer.writeheader()
    given = [r for r in rows if not r.skipped]
    writer.writerows({"clip_id": r.item.prompt_id, "annotator": r.annotator, **r.labels} for r in given)
    storage.write_atomic(path, text.getvalue())
    return len(given)


def prompts(tasks: Path) -> str:
    """The folder of `stepvideo label export` as a file of prompts for `stepvideo study create --kind label`.

    A clip's text is its dense caption, or its short one; a clip without any is shown with its id.
    """
    lines = []
    for clip, captions in current_captions(tasks).items():
        texts = {lang: captions[f"dense_{lang}"] or captions[f"short_{lang}"] for lang in LANGUAGES}
        texts = {lang: text for lang, text in texts.items() if text} or {"en": clip}
        lines.append(json.dumps({"id": clip, **texts}, ensure_ascii=False) + "\n")
    return "".join(lines)


def skipped(rows: Iterable[Labels]) -> dict[str, str]:
    """Clip and annotator → why there is no answer."""
    return {f"{r.item.prompt_id} by {r.annotator}": r.skipped for r in rows if r.skipped}


def _asked(name: str, kind: str, english: str, chinese: str) -> dict[str, Any]:
    names = {"en": name.replace("_", " "), "zh": NAMES[name]}
    return {"id": name, "type": kind, "name": names, "help": {"en": english, "zh": chinese}}
