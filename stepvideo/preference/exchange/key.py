"""A study as tasks for another tool, blind, and its answers as rows of the votes table.

Nothing in the tool swaps sides, so every task is one order of its sides, drawn and balanced here. The key, which says
what a task is, stays with the study; media get a name for each task and side, or a pair of one video would show itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from stepvideo import storage
from stepvideo.errors import ArtifactError, StepVideoError
from stepvideo.evaluation.votes import Vote
from stepvideo.preference import private
from stepvideo.preference.exchange.form import Answer, Task
from stepvideo.preference.study import EXPORTS, MEDIA, Item, Study
from stepvideo.preference.table import of_answer, of_item

SHOWN = 20  # problems in a message


@dataclass(frozen=True)
class Entry:
    """What one task is: an item, the role in which it is asked, and the side that stands left."""

    task: str
    item: str
    role: str
    left: str


def entries(study: Study, only: Iterable[str] | None = None, name: str = "") -> list[Entry]:
    """One task for each item but practice, in a drawn order, and repeats of some with their sides swapped.

    Args:
        only: items to ask, such as those of the queue for adjudication; then without gold, A/A and repeated ones.
        name: of the export; another name gives other sides, order and opaque names.
    """
    seed = int(study.opaque("export", name, study.config.seed)[:12], 16)
    draw = np.random.default_rng(seed)
    chosen = None if only is None else set(only)
    asked = [i for i in study.items if (i.role != "practice" if chosen is None else i.item in chosen)]
    repeats = 0 if chosen is not None else round(study.config.repeats * len(study.by_role["vote"]))
    lefts = _balanced(len(asked), draw)
    rows = [(i.item, i.role, left) for i, left in zip(asked, lefts, strict=True)]
    votes = [r for r in rows if r[1] == "vote"]
    again = [votes[n] for n in draw.permutation(len(votes))[:repeats]]
    rows = [rows[n] for n in draw.permutation(len(rows))]
    for item, role, left in again:  # somewhere after the first time; together at the end they would show what they are
        place = draw.integers(rows.index((item, role, left)) + 1, len(rows) + 1)
        rows.insert(int(place), (item, "repeat", "b" if left == "a" and study.config.paired else "a"))
    return [Entry(study.opaque("task", name, item, role), item, role, left) for item, role, left in rows]


def tasks(study: Study, key: Iterable[Entry]) -> list[Task]:
    """What the tool is given. Media names are opaque and of one task each."""
    found = []
    for entry in key:
        item = study.by_id[entry.item]
        names = tuple(media_name(study, entry, slot) for slot in range(2 if item.b else 1))
        found.append(Task(entry.task, names, dict(item.prompt)))
    return found


def media_name(study: Study, entry: Entry, slot: int) -> str:
    return f"{study.opaque('media', entry.task, slot)}.mp4"


def place_media(study: Study, folder: Path, key: Iterable[Entry], out: Path) -> None:
    """The tasks' videos in `out`, under their opaque names. Raises ArtifactError."""
    for entry in key:
        for slot, side in enumerate(_sides(study.by_id[entry.item], entry.left)):
            target = out / media_name(study, entry, slot)
            if not target.exists():
                storage.link_or_copy(folder / MEDIA / side, target)


def save_key(folder: Path, name: str, key: Sequence[Entry]) -> Path:
    """Beside the study's truth, for its owner alone."""
    path = folder / EXPORTS / f"{name}.key.json"
    private.write_json(path, [asdict(e) for e in key])
    return path


def load_key(folder: Path, name: str) -> dict[str, Entry]:
    """task → entry. Raises ArtifactError: there is no export of that name."""
    try:
        return {e["task"]: Entry(**e) for e in storage.read_json(folder / EXPORTS / f"{name}.key.json")}
    except TypeError as e:
        raise ArtifactError(f"{folder / EXPORTS / name}.key.json is damaged: {e}") from e


def votes(
    study: Study, key: Mapping[str, Entry], answers: Iterable[Answer], source: str, simulated: bool = False
) -> list[Vote]:
    """Rows of the votes table, blind: they name no model.

    Raises:
        StepVideoError: answers cannot be used, each named as far as `SHOWN`.
    """
    found, problems = [], []
    given: set[tuple[str, str]] = set()
    for n, answer in enumerate(answers, 1):
        entry = key.get(answer.task)
        if entry is None:
            problems.append(f"answer {n}: task {answer.task!r} is not of this export")
        elif (answer.task, answer.annotator) in given:
            problems.append(f"answer {n}: {answer.annotator} answered task {answer.task} already")
        else:
            given.add((answer.task, answer.annotator))
            try:
                found.append(_vote(study, entry, answer, simulated))
            except (ValueError, KeyError) as e:
                problems.append(f"answer {n}: {e}")
    if problems:
        more = f"\n  and {len(problems) - SHOWN} more" if len(problems) > SHOWN else ""
        listed = "\n  ".join(problems[:SHOWN])
        raise StepVideoError(f"{source}: {len(problems)} answers cannot be used:\n  {listed}{more}")
    return found


def _vote(study: Study, entry: Entry, answer: Answer, simulated: bool) -> Vote:
    columns = of_item(study, study.by_id[entry.item], entry.role, entry.left)
    columns |= {"dwell_s": answer.dwell_s or None, "time": answer.time, "skipped": answer.skipped}
    if not answer.skipped:
        columns |= of_answer({"scores": answer.scores} if answer.scores else {"choice": answer.choice}, entry.left)
    if simulated:
        columns["simulated"] = "true"
    return Vote(**columns, annotator=answer.annotator)


def _sides(item: Item, left: str) -> list[str]:
    sides = [item.a.media, *([item.b.media] if item.b else [])]
    return sides if left == "a" else sides[::-1]


def _balanced(n: int, draw: np.random.Generator) -> list[str]:
    """n sides, half of them a (or one more), in a drawn order."""
    return [("a", "b")[i % 2] for i in draw.permutation(n)]
