"""Whether an answer is one that the study asks for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from stepvideo.evaluation.votes import SCALES
from stepvideo.inference.serve.errors import Refused
from stepvideo.preference.config import CHOICES
from stepvideo.preference.study import Item, Study

MAX_TEXT = 4000  # characters of a corrected caption
FORMS = {"compare": "choice", "prefer": "choice", "rate": "scores", "label": "labels"}


def checked(study: Study, answer: Mapping[str, Any]) -> dict[str, Any]:
    """The answer, if it is whole and has nothing else. Raises Refused: says what it should be."""
    form = FORMS[study.kind]
    if set(answer) != {form}:
        raise Refused(f"answer: give {form} and nothing else")
    said = answer[form]
    if form == "choice":
        if said not in CHOICES:
            raise Refused(f"choice: give one of {', '.join(CHOICES)}")
    elif not isinstance(said, Mapping):
        raise Refused(f"{form}: give an object")
    elif form == "scores":
        if set(said) != set(SCALES) or not all(type(v) is int and 1 <= v <= 5 for v in said.values()):
            raise Refused(f"scores: give 1 to 5 for each of {', '.join(SCALES)}")
    else:
        _labels(study, said)
    return {form: dict(said) if isinstance(said, Mapping) else said}


def _labels(study: Study, said: Mapping[str, Any]) -> None:
    questions = {q["id"]: q for q in study.texts["questions"]}
    if unknown := set(said) - set(questions):
        raise Refused(f"labels: there is no question {sorted(unknown)[0][:40]!r}")
    for name, question in questions.items():
        value = said.get(name)
        if question["type"] == "choice":
            values = [o["value"] for o in question["options"]]
            if value not in values:
                raise Refused(f"labels.{name}: give one of {', '.join(values)}")
        elif value is not None and not (isinstance(value, str) and len(value) <= MAX_TEXT and _can_be_written(value)):
            raise Refused(f"labels.{name}: give a text of up to {MAX_TEXT} characters")


def _can_be_written(text: str) -> bool:
    """Half of a surrogate pair, which JSON can say, is no text."""
    return not any("\ud800" <= c <= "\udfff" for c in text)


WHY = {
    0: {"zh": "两边是同一段视频。", "en": "Both sides are the same video."},
    1: {"zh": "另一段的画面被打乱或加了噪声。", "en": "The other one is the same video, shuffled or with noise."},
}


def feedback(item: Item, left: str, choice: str) -> dict[str, Any]:
    """{right, expected, why} of a practice answer. `left`: the side that was shown left."""
    better = {0: "", 1: "a", -1: "b"}[item.expected or 0]
    expected: str | list[str] = ["tie", "both_bad"] if not better else "left" if better == left else "right"
    right = choice == expected or choice in expected and not better
    return {"right": right, "expected": expected, "why": WHY[abs(item.expected or 0)]}
