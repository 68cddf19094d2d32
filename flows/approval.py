"""Ask a person and wait for the answer: a paused flow run in Prefect's UI, and always a file (flows/approval_file.py).

`stepvideo approve KEY` writes the answer; so does the form of the paused run in the UI. Asked again with the same key
(its process was killed, say), the answer that is there is returned at once.
"""

from __future__ import annotations

import hashlib
import re
import time
from pathlib import Path

from flows.approval_file import Answer, answer_of, give, put, waiting, withdraw
from stepvideo.errors import StepVideoError

__all__ = ["Answer", "Unanswered", "answer_of", "ask", "give", "in_flow", "waiting"]
POLL_S = 2.0


class Unanswered(StepVideoError):
    """Nobody answered in time; nothing was approved."""


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
            put(store, asked)
            pause(store, asked, timeout_s)
        else:
            put(store, asked)
        while not (known := answer_of(store, key)):
            if time.monotonic() > until:
                raise Unanswered(f"{question} Nobody answered in {timeout_s:g} s. Run it again, then: {command}")
            time.sleep(min(POLL_S, max(0.01, until - time.monotonic())))
        return known
    finally:
        withdraw(store, key)


def in_flow() -> bool:
    """Whether this code runs inside a Prefect flow; imports nothing."""
    import sys

    context = sys.modules.get("prefect.context")
    return context is not None and context.FlowRunContext.get() is not None


def _slug(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9.-]+", "-", text).strip("-.")
