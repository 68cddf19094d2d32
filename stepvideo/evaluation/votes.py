"""The votes table: what studies write, statistics read and preference training learns from. One row a vote.

CSV (one header line) or JSONL, by the file's suffix; column names are the fields of `Vote`, empty cells are absent
values. An answer that is missing without a reason to skip is an error: nothing measured is never a tie.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from datetime import datetime
from pathlib import Path
from typing import Any

from stepvideo import storage
from stepvideo.errors import ArtifactError
from stepvideo.evaluation.csv_cells import plain, safe_row

SCALES = ("instruction_following", "motion_smoothness", "physical_plausibility", "aesthetic_appeal")
"""Metric-2 of the report (§9.1), each from 1 to 5."""

KINDS = ("compare", "prefer", "rate")
ROLES = ("vote", "gold", "aa", "repeat", "practice")
SIDES = ("", "a", "b")
OUTCOMES = (1, 0, -1)
BOTH_BAD = "both bad"


@dataclass(frozen=True)
class Vote:
    """One annotator's answer to one item.

    Attributes:
        kind: compare (two models), prefer (two samples of one model), rate (four scales of one video).
        item: what was judged; rows of one item are answers to the same pair or video.
        prompt_id: the unit that intervals resample; items of one prompt share it.
        category: tags of the prompt, separated by ";" where it has several.
        model_a, model_b: of a pair; "" while a study runs blind.
        outcome: of a pair: 1 a is better, 0 tie, -1 b is better; None if skipped.
        model: of a rated video.
        shown_left: which of a and b was on the left; "" if unknown.
        dwell_s: seconds from both sides seen to the answer.
        time: ISO 8601.
        role: vote counts; gold, aa (identical sides), repeat and practice are for quality control.
        repeat_of: for a repeat the item it repeats.
        expected: for gold and A/A pairs the right outcome.
        skipped: the reason why there is no answer; "" where there is one.
        note: "both bad" for a tie of that kind; else free.
        simulated: "true" for the answer of a simulated annotator, which is no result about people; "" for a person's.

    Raises:
        ValueError: names the field, the value and what it may be.
    """

    study: str
    kind: str
    item: str
    prompt_id: str
    annotator: str
    prompt: str = ""
    category: str = ""
    lang: str = ""
    model_a: str = ""
    model_b: str = ""
    outcome: int | None = None
    model: str = ""
    instruction_following: int | None = None
    motion_smoothness: int | None = None
    physical_plausibility: int | None = None
    aesthetic_appeal: int | None = None
    shown_left: str = ""
    dwell_s: float | None = None
    time: str = ""
    role: str = "vote"
    repeat_of: str = ""
    expected: int | None = None
    skipped: str = ""
    note: str = ""
    simulated: str = ""

    def __post_init__(self) -> None:
        for name in ("item", "prompt_id", "annotator"):
            if not getattr(self, name):
                raise ValueError(f"{name} is empty: every vote names its item, prompt_id and annotator")
        _one_of("kind", self.kind, KINDS)
        _one_of("role", self.role, ROLES)
        _one_of("shown_left", self.shown_left, SIDES)
        _one_of("simulated", self.simulated, ("", "true"))
        _one_of("expected", self.expected, (None, *OUTCOMES))
        if self.dwell_s is not None and not (math.isfinite(self.dwell_s) and self.dwell_s >= 0):
            raise ValueError(f"dwell_s={self.dwell_s}: give seconds, 0 or more")
        if self.time:
            try:
                datetime.fromisoformat(self.time)
            except ValueError:
                raise ValueError(f"time={self.time!r}: give ISO 8601, such as 2026-11-22T01:30:00Z") from None
        self._check_answer()

    def _check_answer(self) -> None:
        rated, allowed = self.kind == "rate", tuple(range(1, 6)) if self.kind == "rate" else OUTCOMES
        asked = SCALES if rated else ("outcome",)
        for name in ("outcome",) if rated else SCALES:
            if getattr(self, name) is not None:
                raise ValueError(f"{name}={getattr(self, name)}: a row of kind {self.kind} has none; leave it empty")
        for name in asked:
            value = getattr(self, name)
            if self.skipped and value is not None:
                raise ValueError(f"{name}={value} in a row skipped for {self.skipped!r}: empty one of the two")
            if not self.skipped and value is None:
                raise ValueError(f"{name} is missing: give one of {allowed}, or the reason in skipped")
            if value is not None:
                _one_of(name, value, allowed)

    @property
    def scores(self) -> dict[str, int]:
        """Scale → 1 to 5, of a rated video that was not skipped."""
        return {name: value for name in SCALES if (value := getattr(self, name)) is not None}

    @property
    def categories(self) -> tuple[str, ...]:
        return tuple(c for part in self.category.split(";") if (c := part.strip()))


COLUMNS = tuple(f.name for f in fields(Vote))
REQUIRED = ("kind", "item", "prompt_id", "annotator")


@dataclass(frozen=True)
class Votes:
    """The rows of one or more files in their order: answers, and apart from them what was skipped."""

    answers: list[Vote] = field(default_factory=list)
    skipped: list[Vote] = field(default_factory=list)

    def counted(self) -> list[Vote]:
        """Answers that results are made of: no gold, A/A, repeated or practice items."""
        return [v for v in self.answers if v.role == "vote"]


def read_votes(path: Path) -> Votes:
    """The table in a .csv or .jsonl file.

    Raises:
        ArtifactError: names file, line, column, value and the fix; also for an answer given twice by one annotator.
    """
    rows: list[Vote] = []
    lines: dict[tuple[str, str, str, str], int] = {}
    for line, record in records(Path(path)):
        vote = vote_from(record, f"{path} line {line}")
        key = (vote.study, vote.item, vote.annotator, vote.model)
        if key in lines and vote.role != "practice":
            raise ArtifactError(
                f"{path} line {line}: annotator {vote.annotator!r} answered item {vote.item!r} in line {lines[key]} "
                "already; keep one of the two (a repeat is an item of its own, with repeat_of)"
            )
        lines[key] = line
        rows.append(vote)
    return split(rows)


def split(rows: Iterable[Vote]) -> Votes:
    found = Votes()
    for row in rows:
        (found.skipped if row.skipped else found.answers).append(row)
    return found


def write_votes(path: Path, rows: Iterable[Vote]) -> None:
    """Rows as CSV or JSONL by the suffix of `path`, atomically; the same rows give the same bytes.

    Raises:
        ArtifactError: another suffix, or the file cannot be written.
    """
    path, found = Path(path), [{c: getattr(r, c) for c in COLUMNS} for r in rows]
    if path.suffix == ".jsonl":
        text = "".join(
            json.dumps({k: v for k, v in r.items() if v not in ("", None)}, ensure_ascii=False) + "\n" for r in found
        )
    elif path.suffix == ".csv":
        out = io.StringIO(newline="")
        writer = csv.DictWriter(out, COLUMNS)  # with the line ends of RFC 4180
        writer.writeheader()
        writer.writerows(map(safe_row, found))
        text = out.getvalue()
    else:
        raise ArtifactError(f"{path}: a votes table ends in .csv or .jsonl")
    storage.write_atomic(path, text)


def records(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """(line number, column → value) of every row of a .csv, .tsv, .jsonl or .json file; CSV values are strings.

    Raises:
        ArtifactError: the file is missing, not UTF-8 or not of this form, or a row has too many or too few cells.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as e:
        reason = e.strerror if isinstance(e, OSError) else "it is not UTF-8; save it as UTF-8"
        raise ArtifactError(f"{path} cannot be read: {reason}") from e
    if path.suffix in (".jsonl", ".json"):
        yield from _json_records(path, text)
    elif path.suffix in (".csv", ".tsv"):
        reader = csv.DictReader(io.StringIO(text, newline=""), delimiter="\t" if path.suffix == ".tsv" else ",")
        for record in reader:
            extra, short = record.pop(None, None), [k for k, v in record.items() if v is None]
            if extra or short:
                what = f"has more cells than the header, from {extra[0]!r} on" if extra else f"ends before {short[0]!r}"
                raise ArtifactError(f"{path} line {reader.line_num} {what}; quote cells that contain commas")
            yield reader.line_num, {k.strip(): plain(v.strip()) for k, v in record.items()}
    else:
        raise ArtifactError(f"{path}: give votes as .csv, .tsv, .jsonl or .json, not {path.suffix or 'without suffix'}")


def vote_from(record: Mapping[str, Any], where: str) -> Vote:
    """A checked row; `where` (file and line) begins the message of the ArtifactError."""
    unknown = sorted(set(record) - set(COLUMNS))
    if unknown:
        raise ArtifactError(f"{where}: column {unknown[0]!r} is not one of a votes table: {', '.join(COLUMNS)}")
    lacking = [c for c in REQUIRED if c not in record]
    if lacking:
        raise ArtifactError(f"{where}: there is no column {lacking[0]!r}; a vote needs {', '.join(REQUIRED)}")
    values: dict[str, Any] = {"study": ""}
    for name, value in record.items():
        if value is None or value == "":
            continue
        parse, form = _PARSERS.get(name, (str, "text"))
        try:
            values[name] = parse(value)
        except (TypeError, ValueError):
            raise ArtifactError(f"{where}, column {name}: {value!r} is not {form}") from None
    for name in REQUIRED:
        values.setdefault(name, "")
    try:
        return Vote(**values)
    except ValueError as e:
        raise ArtifactError(f"{where}: {e}") from None


def _json_records(path: Path, text: str) -> Iterator[tuple[int, dict[str, Any]]]:
    if path.suffix == ".json":
        try:
            whole = json.loads(text)
        except ValueError as e:
            raise ArtifactError(f"{path} is not JSON: {e}") from None
        lines = list(enumerate(whole, 1)) if isinstance(whole, list) else [(1, whole)]
    else:
        lines = [(i, line) for i, line in enumerate(text.split("\n"), 1) if line.strip()]
    for i, line in lines:
        try:
            record = json.loads(line) if isinstance(line, str) else line
        except ValueError as e:
            raise ArtifactError(f"{path} line {i} is not JSON: {e}") from None
        if not isinstance(record, dict):
            raise ArtifactError(f"{path} line {i} is {str(record)[:40]!r}: give one object a vote")
        yield i, record


def whole_number(value: Any) -> int:
    """3, "3" and "3.0" (tables that passed through pandas) are 3; 3.5, True and "three" are ValueErrors."""
    if isinstance(value, bool) or float(value) != int(float(value)):
        raise ValueError(value)
    return int(float(value))


_PARSERS: dict[str, tuple[Callable[[Any], Any], str]] = {
    **dict.fromkeys((*SCALES, "outcome", "expected"), (whole_number, "a whole number")),
    "dwell_s": (float, "a number of seconds"),
    "simulated": (lambda v: str(v).lower(), "true"),
}


def _one_of(name: str, value: object, allowed: tuple[Any, ...]) -> None:
    if value not in allowed:
        raise ValueError(f"{name}={value!r}: give one of {', '.join(repr(a) for a in allowed if a is not None)}")
