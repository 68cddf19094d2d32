"""Plain CSV, as Argilla, Toloka and spreadsheets take and give: one line a task out, one line an answer back."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from stepvideo.errors import StepVideoError
from stepvideo.evaluation.csv_cells import plain, safe_row
from stepvideo.preference.exchange.form import Answer, Task

UNHELD: Mapping[str, str] = {}  # every field of an answer is a column
BOM = "\ufeff"  # without it Excel misreads Chinese
INPUT, OUTPUT = "INPUT:", "OUTPUT:"  # Toloka's names begin so; both ways are read
KNOWN = ("task", "annotator", "choice", "dwell_s", "time", "skipped")
SCORE, LABEL = "score_", "label_"


def tasks(given: Sequence[Task], media_url: str = "media/") -> str:
    """tasks.csv: task, left, right (or video), prompt_LANGUAGE, caption_SLOT; and empty columns to answer in."""
    rows = []
    for t in given:
        names = ("left", "right") if len(t.media) == 2 else ("video",)
        media = {n: media_url + m for n, m in zip(names, t.media, strict=True)}
        prompt = {f"prompt_{language}": text for language, text in t.prompt.items()}
        captions = {f"caption_{slot}": text for slot, text in t.captions.items()}
        rows.append({"task": t.task, **media, **prompt, **captions})
    return _csv(rows)


def answered(given: Sequence[Task], answers: Iterable[Answer]) -> str:
    """One line an answer, with a column for each score and label that occurs."""
    known = {t.task for t in given}
    rows = []
    for a in answers:
        if a.task not in known:
            raise StepVideoError(f"an answer is for task {a.task!r}, which was not asked")
        scores = {SCORE + n: str(v) for n, v in a.scores.items()}
        labels = {LABEL + n: v for n, v in a.labels.items()}
        fixed = {"task": a.task, "annotator": a.annotator, "choice": a.choice, "dwell_s": repr(a.dwell_s)}
        rows.append({**fixed, "time": a.time, "skipped": a.skipped, **scores, **labels})
    return _csv(rows, KNOWN)


def read(path: Path) -> list[Answer]:
    """The answers of a file; lines that nobody filled in are left out.

    Raises:
        StepVideoError: it is no CSV in UTF-8 with the columns task and annotator, or a number in it is none.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as f:
            reader = csv.DictReader(f)
            names = {n.removeprefix(INPUT).removeprefix(OUTPUT) for n in reader.fieldnames or ()}
            if missing := {"task", "annotator"} - names:
                raise StepVideoError(f"{path} has no column {', '.join(sorted(missing))}")
            found = [_answer(path, number, row) for number, row in enumerate(reader, 2)]
    except (OSError, UnicodeDecodeError, csv.Error) as e:
        raise StepVideoError(f"{path} cannot be read as CSV in UTF-8: {e}") from e
    return [a for a in found if a.choice or a.scores or a.labels or a.skipped]


def _answer(path: Path, number: int, row: Mapping[str, str | None]) -> Answer:
    said = {
        str(k).removeprefix(INPUT).removeprefix(OUTPUT): plain(v) for k, v in row.items() if isinstance(v, str) and v
    }
    try:
        scores = {n.removeprefix(SCORE): int(v) for n, v in said.items() if n.startswith(SCORE)}
        dwell = float(said.get("dwell_s", 0.0))
    except ValueError as e:
        raise StepVideoError(f"{path} row {number}: {e}; scores and dwell_s are numbers") from e
    labels = {n.removeprefix(LABEL): v for n, v in said.items() if n.startswith(LABEL)}
    task, who, choice, time, skipped = (said.get(n, "") for n in ("task", "annotator", "choice", "time", "skipped"))
    return Answer(task, who, choice, scores, labels, dwell, time, skipped)


def _csv(rows: Sequence[Mapping[str, str]], first: Sequence[str] = ()) -> str:
    names = list(dict.fromkeys([*first, *(n for row in rows for n in row)]))
    text = io.StringIO()
    writer = csv.DictWriter(text, names, restval="")
    writer.writeheader()
    writer.writerows(map(safe_row, rows))
    return BOM + text.getvalue()
