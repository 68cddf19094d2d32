"""VideoAlign's table of preferences, both ways: path_A, path_B, prompt, VQ, MQ, TA and Overall in {A, B, same}.

A row is one answer about one pair: visual quality, motion quality, text alignment. Studies ask one question, which is
`Overall`; what was not asked stays empty. The table names the two files, so it is no blind form.
"""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from stepvideo.errors import StepVideoError
from stepvideo.evaluation.csv_cells import safe_row
from stepvideo.evaluation.votes import BOTH_BAD, Vote, records

DIMENSIONS = ("VQ", "MQ", "TA", "Overall")
OF_FILES = ("fps_A", "fps_B", "num_frames_A", "num_frames_B")
COLUMNS: tuple[str, ...] = ("path_A", "path_B", "prompt", *DIMENSIONS, *OF_FILES, "annotator")
ANYBODY = "videoalign"
SAID = {1: "A", 0: "same", -1: "B"}
UNHELD = {
    "category": "category", "lang": "language", "dwell_s": "dwell time", "time": "time", "shown_left": "side shown",
}  # fmt: skip


def lost(votes: Iterable[Vote]) -> dict[str, int]:
    """What the table cannot hold of these votes: what → number of votes."""
    votes = list(votes)
    found = {what: sum(bool(getattr(v, name)) for v in votes) for name, what in UNHELD.items()}
    found["that both are bad"] = sum(v.note == BOTH_BAD for v in votes)
    found["skipped"] = sum(bool(v.skipped) for v in votes)
    found["gold, A/A, repeated and practice items"] = sum(v.role != "vote" for v in votes)
    return {what: n for what, n in found.items() if n}


def write(votes: Iterable[Vote], paths: Callable[[Vote], tuple[str, str]], fps: float = 0.0, frames: int = 0) -> str:
    """The table of the votes on pairs that count: a row for each pair and annotator, in the order of the votes.

    Args:
        paths: files of a and b of a vote's pair.
    """
    known = dict(zip(OF_FILES, (fps, fps, frames, frames), strict=True)) if frames else {}
    rows: dict[tuple[str, ...], dict[str, Any]] = {}
    for v in votes:
        if v.outcome is None or v.role != "vote":
            continue
        of = (*paths(v), v.prompt, v.annotator)
        names: dict[str, Any] = dict(zip(("path_A", "path_B", "prompt", "annotator"), of, strict=True))
        row = rows.setdefault(of, names | known)
        asked = v.study.rpartition(":")[2]
        row[asked if asked in DIMENSIONS else "Overall"] = SAID[v.outcome]
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n", restval="")
    writer.writeheader()
    writer.writerows(map(safe_row, rows.values()))
    return text.getvalue()


def read(path: Path, study: str = "videoalign") -> list[Vote]:
    """One vote for each dimension that a row judges, of study `STUDY:DIMENSION`; an item is a pair of files.

    Rows without an annotator are of `ANYBODY`; who judges one pair again is another annotator. Other columns than
    `COLUMNS` are left out.

    Raises:
        StepVideoError: a column is missing, or a judgement is none of A, B and same.
    """
    found: list[Vote] = []
    times: Counter[tuple[str, str]] = Counter()
    for line, row in records(path):
        if missing := {"path_A", "path_B", "prompt"} - set(row):
            raise StepVideoError(f"{path} has no column {', '.join(sorted(missing))}")
        pair, who = f"{row['path_A']}|{row['path_B']}", str(row.get("annotator") or ANYBODY)
        times[pair, who] += 1
        who += f"-{times[pair, who]}" if times[pair, who] > 1 else ""
        for dimension in DIMENSIONS:
            if not (said := str(row.get(dimension) or "").strip()):
                continue
            outcome = {"a": 1, "b": -1, "same": 0}.get(said.lower())
            if outcome is None:
                raise StepVideoError(f"{path} line {line}, {dimension}: {said!r} is none of A, B, same")
            prompt = str(row["prompt"])
            found.append(Vote(f"{study}:{dimension}", "compare", pair, prompt or pair, who, prompt, outcome=outcome))
    return found


def files(vote: Vote) -> tuple[str, str]:
    """path_A and path_B of a vote that `read` made."""
    a, _, b = vote.item.partition("|")
    return a, b
