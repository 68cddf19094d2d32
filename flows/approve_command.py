"""`stepvideo approve`: what waits for a person, and the answer to it."""

from __future__ import annotations

import contextlib
import getpass
import json
import os
import time
from pathlib import Path
from typing import Any

from flows.approval_file import Answer, give, waiting
from flows.status import store_of
from stepvideo.errors import ConfigError


def approve_command(run: str, store: str | None, reject: bool, by: str, note: str, as_json: bool) -> int:
    """Answer what is asked of `run`; without one, print what waits.

    Args:
        run: a key, the beginning of one, or id or name of the flow run that waits.

    Raises:
        ConfigError: nothing waits under that name, or several things do.
    """
    answer = Answer(not reject, by or _me(), note, time.time())
    root = store_of(store).root if store or not os.environ.get("PREFECT_API_URL") else _root_if_any()
    rows = waiting(root) if root else []
    if not run:
        return _list(rows, as_json)
    named = [r for r in rows if run in (r.get("flow_run"), r.get("flow_run_name")) or r["key"].startswith(run)]
    if len(named) > 1:
        raise ConfigError(f"{run} is not one question: {', '.join(r['key'] for r in named)}; give a whole key")
    if named and root:
        counts = give(root, named[0]["key"], answer)
        if counts != answer:
            raise ConfigError(f"{run} was answered before, by {counts.by}: {_said(counts)}. The first answer counts")
    elif os.environ.get("PREFECT_API_URL"):
        _resume(run, answer)
    else:
        known = ", ".join(r["key"] for r in rows) or "nothing waits"
        raise ConfigError(
            f"nothing waits as {run} in {root}: {known}. --store names another store, PREFECT_API_URL a server"
        )
    if as_json:
        print(json.dumps({"run": run, "approved": answer.approved, "by": answer.by, "note": answer.note}))
    else:
        print(f"{_said(answer)} by {answer.by}; the run goes on by itself. next: stepvideo status")
    return 0


def _said(answer: Answer) -> str:
    return "approved" if answer.approved else "rejected"


def _me() -> str:
    with contextlib.suppress(KeyError, OSError):  # a user without a name, in a container
        return getpass.getuser()
    return f"user {os.getuid()}"


def _root_if_any() -> Path | None:
    with contextlib.suppress(Exception):
        return store_of(None).root
    return None


def _list(rows: list[dict[str, Any]], as_json: bool) -> int:
    if as_json:
        print(json.dumps(rows, indent=1, ensure_ascii=False))
        return 0
    for row in rows:
        since = time.strftime("%Y-%m-%d %H:%M", time.localtime(row["asked"]))
        print(
            f"{row['key']}  since {since}  {row['question']}\n  evidence: {row['evidence']}\n  next: {row['command']}"
        )
    if not rows:
        print("nothing waits for a person")
    return 0


def _resume(run: str, answer: Answer) -> None:
    """A flow run whose store is elsewhere, through its server."""
    from prefect.flow_runs import resume_flow_run

    from flows.approval_pause import paused_runs

    found = [r for r in paused_runs() if run in (str(r.id), r.name)]
    if len(found) != 1:
        known = ", ".join(f"{r.name} ({r.id})" for r in (found or paused_runs())) or "none is paused"
        raise ConfigError(f"{run} names {len(found)} paused flow runs of {os.environ['PREFECT_API_URL']}: {known}")
    said = {"approved": answer.approved, "by": answer.by, "note": answer.note}
    try:
        resume_flow_run(found[0].id, run_input=said)
    except RuntimeError as e:
        raise ConfigError(f"{run} does not take an answer: {e}; is it paused for a study? Then close that") from e
