"""Ask a person and wait for the answer: a paused flow run in Prefect's UI, and always a file beside the artifacts.

    STORE/_approvals/KEY.json          what is asked, of whom it is waited for, what there is to look at
    STORE/_approvals/KEY.answer.json   the answer: who, when, why. The first one counts, and it stays

`stepvideo approve KEY` writes the answer; so does the form of the paused run in the UI. Asked again with the same key
(its process was killed, say), the answer that is there is returned at once.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from stepvideo import storage
from stepvideo.errors import ArtifactError, StepVideoError

FOLDER = "_approvals"
POLL_S = 2.0
_ASKED, _ANSWER = ".json", ".answer.json"


class Unanswered(StepVideoError):
    """Nobody answered in time; nothing was approved."""


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


def ask(question: str, evidence_url: str, timeout_s: float, *, store: Path, key: str = "") -> Answer:
    """Wait until somebody approves or rejects. Inside a Prefect flow the flow run is Paused meanwhile, with a form.

    Args:
        question: one sentence that can be answered with yes or no.
        evidence_url: address or path of what the answer is to rest on.
        timeout_s: seconds to wait at most.
        store: root of the artifact store.
        key: what is decided, such as a digest: one key is answered once. By default made of question and evidence.

    Raises:
        Unanswered: nobody did in time; asked again later it waits again.
        ArtifactError: the store cannot be written.
    """
    key = _slug(key) or hashlib.sha256(f"{question}\n{evidence_url}".encode()).hexdigest()[:12]
    if known := answer_of(store, key):
        return known
    command = f"stepvideo approve {key} --store {store}"
    asked = {"key": key, "question": question, "evidence": evidence_url, "asked": time.time(), "command": command}
    until = time.monotonic() + timeout_s
    try:
        if in_flow():
            from flows.approval_pause import about, pause

            asked |= about()
            storage.write_json(store / FOLDER / f"{key}{_ASKED}", asked)
            pause(store, asked, timeout_s)
        else:
            storage.write_json(store / FOLDER / f"{key}{_ASKED}", asked)
        while not (known := answer_of(store, key)):
            if time.monotonic() > until:
                raise Unanswered(f"{question} Nobody answered in {timeout_s:g} s. Run it again, then: {command}")
            time.sleep(min(POLL_S, max(0.01, until - time.monotonic())))
        return known
    finally:
        if not (store / FOLDER / f"{key}{_ANSWER}").exists():
            with contextlib.suppress(OSError):
                (store / FOLDER / f"{key}{_ASKED}").unlink()  # nobody waits any more


def in_flow() -> bool:
    """Whether this code runs inside a Prefect flow; imports nothing."""
    import sys

    context = sys.modules.get("prefect.context")
    return context is not None and context.FlowRunContext.get() is not None


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


def _slug(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9.-]+", "-", text).strip("-.")
