"""What a study's annotators said, as rows: votes for the votes table, and labels. Blind unless the study is closed.

Of every assignment its last vote or skip stands; what was undone before does not. Votes that other tools brought
(`exchange`) lie in `imported/` as blind rows and are read with the study's own.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Row, select

from stepvideo import storage
from stepvideo.errors import StepVideoError
from stepvideo.evaluation.votes import BOTH_BAD, Vote, Votes, read_votes
from stepvideo.preference.session import Session, closed
from stepvideo.preference.store import assignments, events, meta
from stepvideo.preference.study import Item, Study

IMPORTED = "imported"
REPEAT = "-repeat"  # a repeat is an item of its own in the table
OUTCOME = {"left": 1, "right": -1, "tie": 0, "both_bad": 0}


@dataclass(frozen=True)
class Labels:
    """One annotator's answers about one clip: question → answer, as the study's texts name them; none if skipped."""

    item: Item
    annotator: str
    labels: dict[str, str]
    dwell_s: float
    skipped: str = ""


def vote_rows(session: Session, folder: Path, blind: bool = True, without: str = "") -> list[Vote]:
    """Every vote and skip, checks and practice too: the study's own in the order they were given, then imported ones.

    Args:
        without: name of a file of `imported/` that is left out.

    Raises:
        StepVideoError: models are asked for and the study is open, or it asks for labels, which are no votes.
    """
    study = session.study
    if study.kind == "label":
        raise StepVideoError(f"{study.name} asks for labels; `stepvideo study labels` writes them")
    if not blind and not is_closed(session):
        raise StepVideoError(f"{study.name} is open and stays blind; close it first: stepvideo study close")
    _must_be_as_closed(session, folder)
    rows = [vote(study, row, said) for row, said in _standing(session)]
    for path in sorted((folder / IMPORTED).glob("*.jsonl")):
        found = read_votes(path) if path.name != without else Votes()
        rows += [*found.answers, *found.skipped]
    return rows if blind else [unblinded(study, row) for row in rows]


def imported_files(folder: Path) -> dict[str, str]:
    """Files of votes that other tools brought: name → sha256."""
    return {p.name: storage.sha256_file(p) for p in sorted((folder / IMPORTED).glob("*.jsonl"))}


def _must_be_as_closed(session: Session, folder: Path) -> None:
    """Raises StepVideoError: files were put into `imported/` of a closed study, changed or taken away since its end."""
    named = select(meta.c.value).where(meta.c.name == IMPORTED)
    said = session.store.read(lambda c: c.execute(named).scalar())
    if said is None:
        return  # open, or closed before this was kept
    then, now = json.loads(said), imported_files(folder)
    if changed := sorted(name for name in then.keys() | now.keys() if then.get(name) != now.get(name)):
        raise StepVideoError(
            f"{folder / IMPORTED / changed[0]} is not as it was when {session.study.name} was closed; a closed study "
            "takes no votes, so put the folder back as it was"
        )


def label_rows(session: Session) -> list[Labels]:
    """Every answer and skip of a study of kind `label`, without practice."""
    found = []
    for row, said in _standing(session):
        if row.role != "practice":
            item = session.study.by_id[row.item]
            given = {k: str(v) for k, v in said.get("answer", {}).get("labels", {}).items() if v}
            skipped = said.get("reason", "")
            found.append(Labels(item, row.annotator, given, said.get("dwell_s", 0.0), skipped))
    return found


def is_closed(session: Session) -> bool:
    return session.store.read(closed)


def of_item(study: Study, item: Item, role: str, left: str) -> dict[str, Any]:
    """The columns of a vote that its item gives, blind."""
    again = role == "repeat"
    expected = item.expected
    if study.kind == "rate" and role == "gold":
        expected = -1  # known to be bad
    return {
        **{"study": study.name, "kind": study.kind, "item": item.item + REPEAT * again, "prompt_id": item.prompt_id},
        **{"prompt": item.prompt.get("zh") or item.prompt.get("en", ""), "category": item.category},
        **{"lang": "zh" if item.prompt.get("zh") else "en", "role": role, "expected": expected},
        **{"repeat_of": item.item if again else "", "shown_left": left if item.b else ""},
        "simulated": "true" if study.config.simulated else "",
    }


def of_answer(answer: dict[str, Any], left: str) -> dict[str, Any]:
    """The columns of a vote that its answer gives: {choice} or {scores}."""
    if "scores" in answer:
        return dict(answer["scores"])
    choice = answer["choice"]
    note = BOTH_BAD if choice == "both_bad" else ""
    return {"outcome": OUTCOME[choice] * (1 if left == "a" else -1), "note": note}


def unblinded(study: Study, row: Vote) -> Vote:
    """The row with the names of its models."""
    item = study.by_id[row.item.removesuffix(REPEAT)]
    if item.b is None:
        return replace(row, model=item.a.model)
    return replace(row, model_a=item.a.model, model_b=item.b.model)


def vote(study: Study, row: Row[Any], said: dict[str, Any]) -> Vote:
    """The row of an assignment and what was said of it last."""
    columns = of_item(study, study.by_id[row.item], row.role, row.left)
    if "answer" in said:
        columns |= of_answer(said["answer"], row.left) | {"dwell_s": said["dwell_s"]}
    else:
        columns |= {"skipped": said["reason"]}
    time = datetime.fromtimestamp(row.time, UTC).isoformat(timespec="milliseconds")
    return Vote(**columns, annotator=row.annotator, time=time)


def _standing(session: Session) -> Iterator[tuple[Row[Any], dict[str, Any]]]:
    """Each assignment that is voted or skipped, with its last vote or skip, in the order of these."""

    def work(connection: Connection) -> list[Row[Any]]:
        columns = [c for c in assignments.c if c.name != "assignment"]
        both = select(*columns, events).join(events, assignments.c.assignment == events.c.assignment)
        stands = assignments.c.state.in_(["voted", "skipped"])
        return list(connection.execute(both.where(stands).order_by(events.c.seq)).all())

    last: dict[str, Row[Any]] = {}
    for row in session.store.read(work):
        if row.what != "undo":
            last.pop(row.assignment, None)
            last[row.assignment] = row
    return ((row, json.loads(row.said)) for row in last.values())
