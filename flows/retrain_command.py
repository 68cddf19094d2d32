"""`stepvideo retrain` and `stepvideo trigger`."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from flows import retrain_triggers, screen
from flows.align import quoted
from flows.compose import ROOT, compose
from flows.graph import build
from flows.plan import HIT, plan
from flows.retrain_verdict import NO_CHAMPION, PROMOTED, Outcome
from flows.retrain_work import Asked, Rows, affected, due, retrain
from flows.status import store_of
from stepvideo import storage
from stepvideo.artifact import Store
from stepvideo.errors import ConfigError, StepVideoError

POLL_S, AFTER_FAILURE_S = 15.0, 900.0
NEXT = {
    PROMOTED: "stepvideo promotions | stepvideo rollback",
    NO_CHAMPION: "stepvideo promote | stepvideo status",
}


def retrain_command(asked: Asked, dry: bool, watch: bool, as_json: bool) -> int:
    """One retraining, or with `watch` one after the other as schedule and triggers want them."""
    console = screen.console(stderr=as_json)
    if dry:
        return _dry(asked, as_json)
    while True:
        pause = POLL_S
        try:
            if not watch or due(asked, Store(compose(asked.overrides)["store"])):
                with contextlib.redirect_stdout(sys.stderr if as_json else sys.stdout):  # of the cascade
                    outcome = _once(asked, console)
                _print(outcome, console, as_json)
        except StepVideoError as e:
            if not watch:
                raise
            console.print(f"error: {e}\nagain in {AFTER_FAILURE_S / 60:g} minutes", markup=False, soft_wrap=True)
            pause = AFTER_FAILURE_S
        if not watch:
            return 0
        time.sleep(pause)


def trigger_command(folder: str | None, reason: str, detail: str, overrides: list[str]) -> int:
    """Leave a trigger in the store, and say who will take it."""
    store = store_of(folder)
    if unread := [o for o in overrides if "=" not in o]:
        raise ConfigError(f"cannot read {unread[0]!r}; settings are written key=value, such as raw=/data/new-clips")
    path, said = retrain_triggers.leave(store, reason, detail, overrides)
    print(f"{path}\n{said}\nnext: stepvideo retrain --triggered with the settings of the cascade")
    return 0


def labels_added(folder: str | None, labels: Path) -> None:
    """A trigger for labels that people gave, once for their content. Nothing where there is no store to retrain in."""
    if folder is None and not (ROOT / "runs" / "store").is_dir():
        return
    named = f"labels-{storage.sha256_file(labels)[:16]}"
    settings = [f"labels={quoted(str(labels.absolute()))}"]
    path, said = retrain_triggers.leave(store_of(folder), "labels", labels.name, settings, named)
    print(f"a reason to retrain: {path} ({said})")


def _once(asked: Asked, console: Any) -> Outcome:
    cfg = compose(asked.overrides)
    if not cfg["tracking"]["prefect"]:
        return retrain(asked, _plainly, console)
    from tasks.environment import set_defaults
    from tasks.prefect_server import temporary_server

    os.environ.setdefault("PREFECT_LOGGING_LEVEL", "CRITICAL")
    set_defaults(cfg)
    with temporary_server(Path(cfg["work"]) / "logs" / "prefect-server.log") as wait_until_up:
        from flows.retrain import retrain as in_prefect

        wait_until_up()
        return Outcome(**in_prefect(**vars(asked)))  # type: ignore[arg-type]


def _plainly(overrides: list[str], until: str | None) -> Rows:
    from flows.prepared import NoBoard, Prepared, run_prepared, summary

    return summary(run_prepared(Prepared.make(overrides, until), NoBoard()))


def _dry(asked: Asked, as_json: bool) -> int:
    """What would be trained; nothing is written."""
    cfg = compose(asked.overrides)
    steps = plan(build(cfg), Store(cfg["store"]))
    if as_json:
        rows = [{"stage": s.node.name, "state": s.state, "why": s.why} for s in steps if s.state != HIT]
        print(json.dumps(rows, indent=1, ensure_ascii=False))
        return 0
    lines = affected(steps)
    print(f"{len(lines)} of {len(steps)} stages are affected{':' if lines else ', nothing to train'}")
    for line in lines:
        print(f"  {line}")
    return 0


def _print(outcome: Outcome, console: Any, as_json: bool) -> None:
    if as_json:
        print(json.dumps(vars(outcome), indent=1, ensure_ascii=False))
        return
    for line in (f"{outcome.state}: {outcome.said}", f"evidence: {outcome.page}" if outcome.page else ""):
        if line:
            console.print(line, markup=False, highlight=False, soft_wrap=True)
    console.print(f"next: {NEXT.get(outcome.state, 'stepvideo promotions | stepvideo status')}", markup=False)
