"""`stepvideo align`: runs, waits, goes on; inside a Prefect flow that is paused while people judge."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

from flows.align import POLL_S, Asked, Rows, align
from flows.compose import compose


def align_command(asked: Asked, as_json: bool) -> int:
    """Prints what the stages made. Without Prefect (tracking.prefect=false) it looks for votes by itself."""
    from flows import screen

    cfg = compose(asked.overrides)
    console = screen.console(stderr=as_json)

    def say(text: str) -> None:
        console.print(text, markup=False, highlight=False, soft_wrap=True)

    rows = _in_prefect(asked, cfg) if cfg["tracking"]["prefect"] else align(asked, _plainly, _poll, say)
    if as_json:
        print(json.dumps(list(rows), indent=1, ensure_ascii=False))
    say("next: stepvideo status | make ui")
    return 0


def _plainly(overrides: list[str], until: str | None) -> Rows:
    from flows.prepared import NoBoard, Prepared, run_prepared, summary

    return summary(run_prepared(Prepared.make(overrides, until), NoBoard()))


def _poll(_name: str, _folder: Path) -> None:
    time.sleep(POLL_S)


def _in_prefect(asked: Asked, cfg: dict[str, Any]) -> Rows:
    from tasks.environment import set_defaults
    from tasks.prefect_server import temporary_server

    os.environ.setdefault("PREFECT_LOGGING_LEVEL", "CRITICAL")
    set_defaults(cfg)
    with temporary_server(Path(cfg["work"]) / "logs" / "prefect-server.log") as wait_until_up:
        from flows.on_policy import on_policy

        wait_until_up()
        return on_policy(**vars(asked))  # type: ignore[return-value]
