"""Anyone's table of pairwise votes or ratings as a votes table: known forms are recognised, other columns are mapped.

Recognised besides our own: FastChat (`winner` is model_a, model_b, tie or tie (bothbad)), VideoAlign (A, B or same in
VQ, MQ, TA or Overall), and tables whose column names say what they hold. What is ambiguous is asked for, not guessed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stepvideo.errors import ArtifactError
from stepvideo.evaluation.votes import BOTH_BAD, COLUMNS, REQUIRED, SCALES, Vote, Votes, read_votes, records, split

# Field of a vote → column names that mean it, in lower case with "_" for other characters, best first.
SYNONYMS: dict[str, tuple[str, ...]] = {
    "outcome": ("outcome", "winner", "overall", "vote", "choice", "preference", "result", "label", "answer"),
    "model_a": ("model_a", "a_model", "model_1", "left_model", "model_left", "method_a", "system_a", "path_a"),
    "model_b": ("model_b", "b_model", "model_2", "right_model", "model_right", "method_b", "system_b", "path_b"),
    "model": ("model", "method", "system", "generator"),
    "prompt_id": ("prompt_id", "question_id", "sample_id", "prompt", "question", "text", "caption", "item"),
    "prompt": ("prompt", "question", "text", "caption"),
    "annotator": ("annotator", "judge", "rater", "worker", "user", "annotator_id", "worker_id", "user_id", "rater_id"),
    "category": ("category", "categories", "tag", "tags", "class"),
    "shown_left": ("shown_left",),
    "skipped": ("skipped",),
    **{scale: (scale,) for scale in SCALES},
}
DIMENSIONS = ("vq", "mq", "ta")  # of VideoAlign; which of them is the outcome has to be said
WORDS: dict[str, int] = {
    **dict.fromkeys(("a", "model_a", "win", "won", "a_wins", "model_1", "better"), 1),
    **dict.fromkeys(("tie", "same", "equal", "draw", "tie_bothbad", "both_bad", "both", "neither"), 0),
    **dict.fromkeys(("b", "model_b", "loss", "lost", "lose", "b_wins", "model_2", "worse"), -1),
}
ANYBODY = "anybody"


def read_any(path: Path, columns: Mapping[str, str] | None = None, values: Mapping[str, str] | None = None) -> Votes:
    """The votes of a .csv, .tsv, .jsonl or .json file of any of these forms.

    Args:
        columns: field of a vote → column, where the name does not say it.
        values: value of the outcome column → a, b or tie, where it is none of the usual words.

    Raises:
        ArtifactError: names file, line, column, value and the option that says what is meant.
    """
    path, columns, values = Path(path), dict(columns or {}), dict(values or {})
    rows = list(records(path))
    if not rows:
        raise ArtifactError(f"{path} holds no vote")
    head = list(dict.fromkeys(name for _, record in rows for name in record))
    if not columns and set(head) <= set(COLUMNS) and set(REQUIRED) <= set(head):
        return read_votes(path)
    chosen = _choose(path, head, columns)
    said = {_plain(v): _side(path, v, s) for v, s in values.items()}
    numbers = {str(record.get(chosen.get("outcome", ""))).strip() for _, record in rows}
    halves = bool({"0.5", ".5"} & numbers)
    if not halves and numbers <= {"0", "1", "0.0", "1.0"} and not said:
        raise ArtifactError(
            f"{path}, column {chosen['outcome']}: 0 and 1 alone do not say whether 0 is a tie or a loss; "
            "add --value 1=a --value 0=b, or --value 0=tie"
        )
    seen: dict[tuple[str, str], int] = {}
    return split(_vote(path, line, record, chosen, said, halves, seen) for line, record in rows)


def _choose(path: Path, head: list[str], given: Mapping[str, str]) -> dict[str, str]:
    """Field → column of this table."""
    for field, column in given.items():
        if field not in SYNONYMS:
            raise ArtifactError(f"--column {field}={column}: {field} is none of {', '.join(SYNONYMS)}")
        if column not in head:
            raise ArtifactError(f"{path} has no column {column!r}; it has {', '.join(head)}")
    plain = {_plain(name): name for name in reversed(head)}
    chosen = {f: next((plain[s] for s in names if s in plain), "") for f, names in SYNONYMS.items()}
    chosen = {f: c for f, c in {**chosen, **given}.items() if c}
    if all(scale in chosen for scale in SCALES):
        if "model" not in chosen:
            raise ArtifactError(f"{path} has ratings but no column of the model; add --column model=NAME")
        chosen.pop("outcome", None)
        return chosen
    several = [plain[d] for d in DIMENSIONS if d in plain]
    if "outcome" not in chosen:
        wanted = f"one of {', '.join(several)}" if several else f"one of {', '.join(head)}"
        raise ArtifactError(f"{path}: which column says who won? Add --column outcome=NAME, {wanted}")
    if "prompt_id" not in chosen:
        raise ArtifactError(
            f"{path}: no column names the prompt, over which intervals are; add --column prompt_id=NAME"
        )
    return chosen


def _vote(
    path: Path,
    line: int,
    record: Mapping[str, Any],
    chosen: Mapping[str, str],
    said: Mapping[str, int],
    halves: bool,
    seen: dict[tuple[str, str], int],
) -> Vote:
    def text(field: str, default: str = "") -> str:
        value = record.get(chosen.get(field, ""))
        return default if value is None or value == "" else str(value)

    where = f"{path} line {line}"
    fields: dict[str, Any] = {f: text(f) for f in ("prompt", "category", "shown_left", "skipped")}
    fields |= {"study": path.stem, "prompt_id": text("prompt_id"), "annotator": text("annotator", ANYBODY)}
    if "outcome" in chosen:
        fields |= {"kind": "compare", **_models(record, chosen, text)}
        answer = text("outcome")
        if not fields["skipped"]:
            left = fields["shown_left"] or ("a" if "left" in _plain(chosen.get("model_a", "")) else "")
            words = {**said, "left": 1 if left == "a" else -1, "right": -1 if left == "a" else 1} if left else said
            fields["outcome"] = _outcome(answer, fields, words, halves, f"{where}, column {chosen['outcome']}")
            fields["note"] = BOTH_BAD if "bad" in _plain(answer) or _plain(answer) == "neither" else ""
        of = sorted((fields["model_a"], fields["model_b"]))
    else:
        fields |= {"kind": "rate", "model": text("model")}
        if not fields["skipped"]:
            fields |= {scale: _score(text(scale), f"{where}, column {chosen[scale]}") for scale in SCALES}
        of = [fields["model"]]
    item = "|".join([fields["prompt_id"], *of])
    times = seen[item, fields["annotator"]] = seen.get((item, fields["annotator"]), 0) + 1
    fields["item"] = item if times == 1 else f"{item}|{times}"
    try:
        return Vote(**fields)
    except ValueError as e:
        raise ArtifactError(f"{where}: {e}") from None


def _models(record: Mapping[str, Any], chosen: Mapping[str, str], text: Any) -> dict[str, str]:
    """Columns of paths name a file of each side, which is no model; then, and without columns, they are A and B."""
    of_files = _plain(chosen.get("model_a", "")) == "path_a"
    return {f: side if of_files else text(f, side) for f, side in (("model_a", "A"), ("model_b", "B"))}


def _outcome(answer: str, fields: Mapping[str, Any], said: Mapping[str, int], halves: bool, where: str) -> int:
    word = _plain(answer)
    if word in said:
        return said[word]
    for side, outcome in (("model_a", 1), ("model_b", -1)):
        if answer == fields[side]:
            return outcome
    if halves and (word in ("0.5", ".5") or _number(answer) in (0.0, 1.0)):
        return {1.0: 1, 0.5: 0, 0.0: -1}[float(answer)]
    if (number := _number(answer)) is not None and number in (1.0, 0.0, -1.0):
        return int(number)
    found = WORDS.get(word)
    if found is None:
        what = "is empty" if not answer else f"{answer!r} is no outcome that is known"
        raise ArtifactError(f"{where}: {what}; add --value {answer or 'VALUE'}=a, =b or =tie")
    return found


def _score(answer: str, where: str) -> int:
    number = _number(answer)
    if number is None or number not in (1, 2, 3, 4, 5):
        raise ArtifactError(f"{where}: {answer!r} is no score from 1 to 5")
    return int(number)


def _side(path: Path, value: str, side: str) -> int:
    try:
        return {"a": 1, "tie": 0, "b": -1}[side]
    except KeyError:
        raise ArtifactError(f"--value {value}={side}: give a, b or tie for {path}") from None


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _plain(name: str) -> str:
    """In lower case, with one "_" for whatever is neither letter, digit, sign nor point."""
    return re.sub(r"[^\w.+-]+", "_", str(name).strip().lower()).strip("_")
