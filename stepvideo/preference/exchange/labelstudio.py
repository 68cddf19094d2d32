"""Label Studio: tasks and the labelling interface out, its export in the format JSON back.

Its tag Pairwise knows no tie, and nothing there swaps sides: the tasks come swapped (`exchange.key`), and four choices
ask what Pairwise cannot. Answers given with Pairwise are read too. A skipped task has no reason there.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from stepvideo.curation.labelling import tasks as label_tasks
from stepvideo.curation.labelling.answers import said
from stepvideo.curation.labelling.questions import QUESTIONS
from stepvideo.errors import StepVideoError
from stepvideo.preference.config import CHOICES, PAIRED
from stepvideo.preference.exchange.form import Answer, Task

UNHELD = {"skipped": "why a task was skipped"}
UNHELD_PAIRWISE = {**UNHELD, "choice=tie": "ties", "choice=both_bad": "pairs of which both are bad"}
SKIPPED = "skipped in Label Studio"
ASK = {
    "left": ("Left is better", "左边更好"),
    "right": ("Right is better", "右边更好"),
    "tie": ("About the same", "差不多"),
    "both_bad": ("Both are bad", "两个都差"),
}


def tasks(given: Iterable[Task], media_url: str = "media/") -> str:
    """tasks.json, to be imported into a project; `media_url` is what stands before a file's name."""
    rows = []
    for t in given:
        names = ("left", "right") if len(t.media) == 2 else ("video",)
        media = {n: media_url + m for n, m in zip(names, t.media, strict=True)}
        captions = {label_tasks.CURRENT + slot: text for slot, text in t.captions.items()}
        prompt = {f"prompt_{language}": text for language, text in t.prompt.items()}
        both = {"prompt": "\n".join(dict.fromkeys(t.prompt.values())), "tags": ""}
        rows.append({"data": {"task": t.task, **media, **prompt, **both, **captions}})
    return json.dumps(rows, indent=1, ensure_ascii=False) + "\n"


def interface(kind: str, scales: Sequence[str] = (), pairwise: bool = False) -> str:
    """The XML of the project's labelling interface.

    Args:
        scales: of kind `rate`.
        pairwise: ask with the tag Pairwise, which has no tie.
    """
    if kind == "label":
        return label_tasks.interface()
    lines = ["<View>", '  <Text name="prompt" value="$prompt"/>']
    if kind in PAIRED:
        lines.append('  <View style="display: flex; gap: 8px">')
        lines += [f'    <Video name="{side}" value="${side}"/>' for side in ("left", "right")]
        lines.append("  </View>")
        if pairwise:
            lines.append('  <Pairwise name="choice" toName="left,right"/>')
        else:
            lines.append('  <Choices name="choice" toName="left" choice="single" required="true" showInLine="true">')
            lines += [
                f'    <Choice value="{c}" hint="{escape(" ".join(ASK[c]))}" hotkey="{k}"/>'
                for k, c in enumerate(CHOICES, 1)
            ]
            lines.append("  </Choices>")
    else:
        lines.append('  <Video name="video" value="$video"/>')
        for scale in scales:
            lines.append(f'  <Header value="{escape(scale.replace("_", " "))}"/>')
            lines.append(f'  <Rating name="{scale}" toName="video" maxRating="5" required="true"/>')
    return "\n".join([*lines, "</View>"]) + "\n"


def answered(given: Iterable[Task], answers: Iterable[Answer], pairwise: bool = False) -> str:
    """The export of a project in which these answers were given; what `read` reads."""
    by_task: dict[str, list[Answer]] = {}
    for a in answers:
        by_task.setdefault(a.task, []).append(a)
    rows = json.loads(tasks(given))
    for row in rows:
        found = by_task.get(row["data"]["task"], [])
        row["annotations"] = [_annotation(a, pairwise) for a in found]
    return json.dumps(rows, indent=1, ensure_ascii=False) + "\n"


def read(path: Path) -> list[Answer]:
    """The answers in an export, in its order, skipped ones too. Raises StepVideoError: it is none."""
    try:
        found = []
        for task in json.loads(path.read_text(encoding="utf-8")):
            for made in task["annotations"]:
                found.append(_answer(str(task["data"]["task"]), made))
        return found
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as e:
        raise StepVideoError(
            f"{path} is no export of Label Studio in its format JSON ({type(e).__name__}: {e}); JSON-MIN will not do"
        ) from e


def _annotation(a: Answer, pairwise: bool) -> dict[str, Any]:
    def result(name: str, kind: str, value: Any, to: str = "video") -> dict[str, Any]:
        return {"from_name": name, "to_name": to, "type": kind, "value": value}

    made = [result(scale, "rating", {"rating": score}) for scale, score in a.scores.items()]
    for name, text in a.labels.items():
        one = "choices" if name in QUESTIONS else "textarea"
        made.append(result(name, one, {"choices" if one == "choices" else "text": [text]}))
    if pairwise and a.choice in ("left", "right"):
        made.append(result("choice", "pairwise", {"selected": a.choice}, "left,right"))
    elif a.choice and not pairwise:
        made.append(result("choice", "choices", {"choices": [a.choice]}, "left"))
    return {
        "completed_by": {"email": a.annotator},
        "result": made,
        "was_cancelled": bool(a.skipped),
        "lead_time": a.dwell_s,
        "created_at": a.time,
    }


def _answer(task: str, made: Mapping[str, Any]) -> Answer:
    by = made.get("completed_by", "")
    name = str(by.get("email") or by.get("id") or "") if isinstance(by, Mapping) else str(by)
    choice, scores, labels = "", {}, {}
    for one in made["result"]:
        value, asked = one["value"], one["from_name"]
        if "rating" in value:
            scores[asked] = int(value["rating"])
        elif asked == "choice":
            choice = value["selected"] if "selected" in value else value["choices"][0]
        else:
            labels[asked] = said(value)
    skipped = SKIPPED if made.get("was_cancelled") else ""
    dwell = float(made.get("lead_time") or 0.0)
    return Answer(task, name, choice, scores, labels, dwell, made.get("created_at") or "", skipped)
