"""Answers of annotators, from a CSV file or from Label Studio's JSON; what cannot be used is named by its row."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stepvideo.curation.labelling.questions import QUESTIONS, SLOTS, VERDICTS, Vote, pseudonym
from stepvideo.errors import StepVideoError

SHOWN = 20  # problems in a message


@dataclass
class Answers:
    """What files of answers hold.

    Attributes:
        empty: rows that nobody answered.
    """

    votes: list[Vote] = field(default_factory=list)
    empty: int = 0


@dataclass(frozen=True)
class _Row:
    where: str
    clip_id: str
    annotator: str
    answers: Mapping[str, str]  # question, slot or "note" → text


def read_answers(paths: list[Path], current: Mapping[str, Mapping[str, str]]) -> Answers:
    """The votes in files of answers, CSV or JSON by their names.

    Args:
        current: clip id → slot → caption, of the clips that were asked for; an equal one is no correction.

    Raises:
        StepVideoError: a file cannot be read, or rows cannot be used, each named as far as `SHOWN`: a clip that was not
            asked for, a verdict that is none, no annotator, a second answer by the same one.
    """
    found, problems = Answers(), []
    first: dict[tuple[str, str], str] = {}
    for path in paths:
        for row in _json(path) if path.suffix == ".json" else _csv(path):
            given = {name: text.strip() for name, text in row.answers.items() if text.strip()}
            if not given:
                found.empty += 1
                continue
            if wrong := _wrong(row, given, current):
                problems.append(f"{row.where}: {wrong}")
                continue
            vote = _vote(row, given, current[row.clip_id])
            before = first.setdefault((vote.clip_id, vote.annotator), row.where)
            if before != row.where:
                problems.append(f"{row.where}: {row.annotator} answered for clip {row.clip_id} in {before} already")
                continue
            found.votes.append(vote)
    if problems:
        more = f"\n  and {len(problems) - SHOWN} more" if len(problems) > SHOWN else ""
        raise StepVideoError(
            f"{len(problems)} answers cannot be used; correct them and import again:\n  "
            + "\n  ".join(problems[:SHOWN])
            + more
        )
    return found


def _wrong(row: _Row, given: Mapping[str, str], current: Mapping[str, Any]) -> str:
    if row.clip_id not in current:
        return f"clip {row.clip_id!r} is not among the {len(current)} that were asked for"
    if not row.annotator:
        return "there is no annotator"
    for name, text in given.items():
        if name in QUESTIONS and text.lower() not in VERDICTS:
            return f"{name} is {text!r}; give {', '.join(VERDICTS)}, or nothing"
    return ""


def _vote(row: _Row, given: Mapping[str, str], current: Mapping[str, str]) -> Vote:
    return Vote(
        row.clip_id,
        pseudonym(row.annotator),
        {q: given[q].lower() for q in QUESTIONS if q in given},
        {s: given[s] for s in SLOTS if given.get(s, current.get(s)) != current.get(s)},
        given.get("note", ""),
        row.where,
    )


def _csv(path: Path) -> Iterator[_Row]:
    """Row 1 is that of the names, as spreadsheets count."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as f:
            reader = csv.DictReader(f)
            if missing := {"clip_id", "annotator"} - set(reader.fieldnames or ()):
                raise StepVideoError(
                    f"{path} has no column {', '.join(sorted(missing))}; fill in the tasks.csv made for it"
                )
            for number, row in enumerate(reader, 2):
                answers = {n: row.get(n) or "" for n in (*QUESTIONS, *SLOTS, "note")}
                yield _Row(f"{path} row {number}", row["clip_id"] or "", (row["annotator"] or "").strip(), answers)
    except (OSError, UnicodeDecodeError, csv.Error) as e:
        raise StepVideoError(f"{path} cannot be read as CSV in UTF-8: {e}") from e


def _json(path: Path) -> Iterator[_Row]:
    """Label Studio's export in its own format ("JSON"): tasks with annotations."""
    try:
        tasks = json.loads(path.read_text(encoding="utf-8"))
        for i, task in enumerate(tasks, 1):
            for j, made in enumerate(task["annotations"], 1):
                if made.get("was_cancelled"):  # skipped by the annotator
                    continue
                by = made.get("completed_by", "")
                name = str(by.get("email") or by.get("id") or "") if isinstance(by, dict) else str(by)
                answers = {r["from_name"]: said(r["value"]) for r in made["result"]}
                yield _Row(f"{path} task {i}, annotation {j}", task["data"]["clip_id"], name, answers)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as e:
        raise StepVideoError(
            f"{path} is no export of Label Studio in its format JSON ({type(e).__name__}: {e}); JSON-MIN will not do"
        ) from e


def said(value: Mapping[str, Any]) -> str:
    """The choice or text in a value of Label Studio."""
    given = value.get("choices") or value.get("text") or ""
    return given if isinstance(given, str) else "\n".join(map(str, given))
