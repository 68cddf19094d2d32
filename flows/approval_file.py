"""Questions to people and their answers, as files beside the artifacts.

STORE/_approvals/KEY.json          what is asked, of whom it is waited for, what there is to look at
STORE/_approvals/KEY.answer.json   the answer: who, when, why. The first one counts, and it stays
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from stepvideo import storage
from stepvideo.errors import ArtifactError

FOLDER = "_approvals"
_ASKED, _ANSWER = ".json", ".answer.json"


@dataclass(frozen=True)
class Answer:
    """What a person said.

    Attributes:
        by: who. note: why, in their words. time: seconds since 1970.
    """

    approved: bool
    by: str
    note: str = ""
    time: float = 0.0


def put(store: Path, asked: dict[str, Any]) -> None:
    """Write a question down. Raises ArtifactError if the store cannot be written."""
    storage.write_json(store / FOLDER / f"{asked['key']}{_ASKED}", asked)


def withdraw(store: Path, key: str) -> None:
    """Nobody waits any more. A question that was answered stays."""
    if not (store / FOLDER / f"{key}{_ANSWER}").exists():
        with contextlib.suppress(OSError):
            (store / FOLDER / f"{key}{_ASKED}").unlink()


def waiting(store: Path) -> list[dict[str, Any]]:
    """What is asked and not answered, oldest first: key, question, evidence, asked, command; the flow run if any."""
    found = (p for p in (store / FOLDER).glob(f"*{_ASKED}") if not p.name.endswith(_ANSWER))
    rows = [storage.read_json(p) for p in found if not p.with_name(p.stem + _ANSWER).exists()]
    return sorted(rows, key=lambda r: r["asked"])


def answer_of(store: Path, key: str) -> Answer | None:
    """The answer that was given, or None."""
    path = store / FOLDER / f"{key}{_ANSWER}"
    return Answer(**storage.read_json(path)) if path.exists() else None


def give(store: Path, key: str, answer: Answer) -> Answer:
    """Record an answer; returns the one that counts, which is the first.

    Raises:
        ArtifactError: the store cannot be written.
    """
    path = store / FOLDER / f"{key}{_ANSWER}"
    mine = path.with_name(f".{key}.{os.getpid()}.{threading.get_ident()}")
    storage.write_json(mine, asdict(answer) | {"time": answer.time or time.time()})
    try:
        with contextlib.suppress(FileExistsError):
            os.link(mine, path)  # unlike a rename it does not replace
    except OSError as e:
        raise ArtifactError(f"{path} cannot be written: {e.strerror or e}; make the store writable") from e
    finally:
        mine.unlink(missing_ok=True)
    counts = answer_of(store, key)
    assert counts is not None
    return counts
