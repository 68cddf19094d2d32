"""What any annotation tool is given and gives back: tasks and answers that name neither models nor sides."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Task:
    """One question: two videos beside each other, or one.

    Attributes:
        task: opaque, of one item and one order of its sides; the key of the export (`exchange.key`) knows which.
        media: file names, left and right, or the one.
        prompt: language → text.
        captions: slot → the caption that is to be corrected (kind `label`).
    """

    task: str
    media: tuple[str, ...]
    prompt: Mapping[str, str]
    captions: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Answer:
    """One annotator's answer to one task; which of choice, scores and labels there are is a matter of its kind.

    Attributes:
        choice: one of `CHOICES`.
        scores: scale → 1 to 5.
        labels: question, caption slot or "note" → text (`curation.labelling.questions`).
        dwell_s: seconds that the task was open; 0 where the tool does not say.
        skipped: why there is no answer; "" where there is one.
    """

    task: str
    annotator: str
    choice: str = ""
    scores: Mapping[str, int] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    dwell_s: float = 0.0
    time: str = ""
    skipped: str = ""


def lost(answers: Iterable[Answer], unheld: Mapping[str, str]) -> dict[str, int]:
    """What a format cannot hold of these answers: reason → number of answers.

    Args:
        unheld: field of `Answer`, or "choice=VALUE" → reason.
    """
    found: Counter[str] = Counter()
    for answer in answers:
        for what, reason in unheld.items():
            name, _, value = what.partition("=")
            given = getattr(answer, name)
            found[reason] += given == value if value else bool(given)
    return {reason: n for reason, n in found.items() if n}
