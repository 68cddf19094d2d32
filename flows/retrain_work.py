"""Retraining: what do new data, labels or code touch, train exactly that, compare with the champion, promote or report.

    <store>/_retrain/lock               one retraining of a store at a time; another one waits
    <store>/_retrain/current.json       who holds it
    <store>/_retrain/<key>.json         the record of what was trained, by all that it depends on (`work_key`)

Killed and started again it goes on: trained stages are in the store, the comparison is keyed by what it compares, and
a begun promotion is finished (tasks/promotion.py). Triggers are taken away last.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console

from flows import retrain_schedule, retrain_triggers
from flows.compose import compose
from flows.graph import Node, build
from flows.plan import HIT, Step, fingerprints, plan
from flows.promote import registry_of
from flows.promote_evidence import known
from flows.retrain_verdict import Asking, Outcome, verdict
from stepvideo import storage
from stepvideo.artifact import Store, lock
from stepvideo.config import digest, load, result_part
from stepvideo.errors import ConfigError, StepVideoError
from tasks import promotion
from tasks.registry import CHAMPION

FOLDER, CURRENT = "_retrain", "current.json"
BEGUN, DONE, FAILED = "begun", "done", "failed"
POLL_S = 0.5

Rows = Sequence[dict[str, Any]]  # of stages, as `stepvideo run --json` prints them
Run = Callable[[list[str], str | None], Rows]
Say = Callable[[str], None]


@dataclass(frozen=True)
class Asked:
    """What is to be retrained, and when.

    Attributes:
        overrides: settings of the cascade. rules: of the comparison, "key=value" (stepvideo.evaluation.champion.Rules).
        cron, timezone: only when this schedule is due, or a trigger waits. triggered: only when a trigger waits.
        approve: a person says yes or no to a promotion, within `approve_timeout_s` seconds.
    """

    overrides: list[str]
    rules: list[str] = field(default_factory=list)
    cron: str = ""
    timezone: str = "UTC"
    triggered: bool = False
    approve: bool = False
    approve_timeout_s: float = 7 * 24 * 3600.0


@dataclass
class Due:
    """Why something is to be done now; false if nothing is."""

    triggers: list[tuple[Path, retrain_triggers.Trigger]]
    slot: float | None = None
    manual: bool = False

    def __bool__(self) -> bool:
        return bool(self.triggers) or self.slot is not None or self.manual

    def why(self, timezone: str) -> list[str]:
        said = [str(t) for _, t in self.triggers]
        said += [f"schedule of {retrain_schedule.said(self.slot, timezone)}"] if self.slot is not None else []
        return said + ["asked for"] * self.manual


def due(asked: Asked, store: Store, now: float | None = None) -> Due:
    """Triggers that wait, and the schedule's newest slot that was not served. Raises ConfigError: no cron."""
    slot = retrain_schedule.due(store, asked.cron, asked.timezone, now) if asked.cron else None
    return Due(retrain_triggers.waiting(store), slot, not (asked.cron or asked.triggered))


def retrain(
    asked: Asked, run: Run, console: Console, ask: Asking | None = None, now: Callable[[], float] = time.time
) -> Outcome:
    """One retraining, from why to what came of it.

    Args:
        run: (overrides, until) → rows of the stages. ask: where people approve. now: the clock of schedules.

    Raises:
        ConfigError: settings, rules or a schedule that make no sense, or no registry to promote in.
        StageFailed and what else training raises: the record says so; triggers wait on.
    """
    cfg = _checked(asked)
    store = Store(cfg["store"])

    def say(text: str) -> None:
        console.print(text, markup=False, highlight=False, soft_wrap=True)

    if not due(asked, store, now()):
        return Outcome("nothing due", _undue(asked, now()))
    with _alone(store, say) as waited:
        reasons = due(asked, store, now())
        reasons.triggers[:] = [each for each in reasons.triggers if _makes_sense(asked, store, *each, say)]
        if not reasons:
            return Outcome("attached" if waited else "nothing due", f"no trigger is left to serve: {_last(store)}")
        settings, late = retrain_triggers.merged(reasons.triggers)
        asked_now = Asked(**{**vars(asked), "overrides": [*asked.overrides, *settings]})
        outcome = _work(asked_now, store, reasons, run, console, say, ask, waited)
        for path, trigger in reasons.triggers:
            retrain_triggers.done(path, trigger, late.get(path, outcome.state))
        if reasons.slot is not None:
            retrain_schedule.serve(store, asked.cron, asked.timezone, reasons.slot)
        return outcome


def _makes_sense(asked: Asked, store: Store, path: Path, trigger: retrain_triggers.Trigger, say: Say) -> bool:
    """Whether a run can have a trigger's settings; one that cannot is put aside, so that it stops no other."""
    try:
        cfg = compose([*asked.overrides, *trigger.overrides]) if trigger.overrides else {"store": str(store.root)}
        if cfg["store"] != str(store.root):
            raise ConfigError(f"a trigger sets store={cfg['store']}; it belongs to {store.root}, which it lies in")
        if trigger.overrides:
            build(cfg)
    except StepVideoError as e:
        say(f"put aside, as no run can have its settings: {path.name}, {trigger}: {e}")
        retrain_triggers.refuse(path, trigger, str(e))
        return False
    return True


def affected(steps: Sequence[Step]) -> list[str]:
    """What would run, a line a stage: those that must, with the reason, and those that depend on them."""
    return [f"{s.node.name}: {s.why}" for s in steps if s.state != HIT]


def work_key(nodes: Sequence[Node], code: Mapping[str, str]) -> str:
    """16 hex digits of all that a cascade's results depend on: settings, contents of its sources, wiring, code."""
    return digest([[n.name, n.kind, result_part(n.config), n.inputs, code[n.kind]] for n in nodes])[:16]


def _work(
    asked: Asked,
    store: Store,
    reasons: Due,
    run: Run,
    console: Console,
    say: Say,
    ask: Asking | None,
    waited: bool,
) -> Outcome:
    cfg = compose(asked.overrides)
    nodes = build(cfg)
    code = fingerprints(nodes)
    path = store.root / FOLDER / f"{work_key(nodes, code)}.json"
    before = storage.read_json(path) if path.exists() else {}
    steps = plan(nodes, store, code)
    lines = affected(steps)
    why = reasons.why(asked.timezone)
    say(f"retrain, because: {'; '.join(why)}")
    open_yet = before.get("state") in (BEGUN, FAILED) or (not before and _unjudged(store, cfg, nodes, steps))
    if not lines and not open_yet:
        done = f"; {before['outcome']}: {before['said']}" if before else ""
        state = "attached" if waited and before else "nothing affected"
        return Outcome(state, f"nothing to train: all {len(steps)} stages are in the store with this content{done}")
    say(
        f"{len(lines)} of {len(steps)} stages are affected:"
        if lines
        else "all stages are there; what is left is to judge"
    )
    for line in lines:
        say(f"  {line}")
    record = {"state": BEGUN, "why": why, "overrides": asked.overrides, "affected": lines, "begun": time.time()}
    if before.get("state") in (BEGUN, FAILED):
        say("an earlier retraining of the same was interrupted; going on")
        record |= {"affected": before["affected"] or lines, "begun": before["begun"]}
    storage.write_json(path, record)
    try:
        rows = run(asked.overrides, None)
        final = [n for n in nodes if n.final][-1]
        outcome = verdict(store, cfg, asked.overrides, final, rows, _rules(asked), asked, console, ask)
    except Exception as e:
        storage.write_json(path, record | {"state": FAILED, "error": str(e), "ended": time.time()})
        raise
    ran = [r["stage"] for r in rows if not r["cached"]]
    outcome = outcome.with_stages([line.split(":")[0] for line in lines], ran)
    said = {"state": DONE, "outcome": outcome.state, "said": outcome.said, "ran": ran, "ended": time.time()}
    storage.write_json(path, record | said | {"decision": outcome.decision, "promotion": outcome.promotion})
    return outcome


def _unjudged(store: Store, cfg: dict[str, Any], nodes: Sequence[Node], steps: Sequence[Step]) -> bool:
    """Whether a run has made the model already and nobody has compared it with the champion."""
    final = [n for n in nodes if n.final][-1].name
    model = next(s.artifact for s in steps if s.node.name == final)
    champion = registry_of(cfg).at(CHAMPION)
    if model is None or champion is None or champion.digest == model.digest:
        return False
    return not (known(store, model.digest, champion.digest) or promotion.rolled_back(store, model.digest))


def _checked(asked: Asked) -> dict[str, Any]:
    """The config, if a retraining makes sense with it; before anything is trained."""
    cfg = compose(asked.overrides)
    nodes = build(cfg)
    if not (cfg["tracking"]["mlflow"] and cfg["register"]):
        raise ConfigError("retrain promotes in MLflow's registry: give tracking=local or team, and register=true")
    if not [n for n in nodes if n.final]:
        raise ConfigError(f"graph={cfg['graph']} has no final model, so there is nothing to promote")
    _rules(asked)
    if asked.cron:
        retrain_schedule.newest_slot(asked.cron, asked.timezone)
    return cfg


def _rules(asked: Asked) -> Any:
    """Raises ConfigError: an unknown rule or value."""
    from omegaconf import OmegaConf

    from stepvideo.evaluation.champion import Rules

    for rule in asked.rules:
        if "=" not in rule:
            raise ConfigError(f"cannot read the rule {rule!r}; rules are written key=value, such as margin=0.05")
    return load(Rules, OmegaConf.to_container(OmegaConf.from_dotlist(asked.rules)), "rule")  # type: ignore[arg-type]


def _undue(asked: Asked, now: float) -> str:
    if not asked.cron:
        return "no trigger waits; `stepvideo trigger data` leaves one"
    served = retrain_schedule.said(retrain_schedule.newest_slot(asked.cron, asked.timezone, now), asked.timezone)
    coming = retrain_schedule.said(retrain_schedule.next_slot(asked.cron, asked.timezone, now), asked.timezone)
    return f"no trigger waits, and the schedule of {served} was served; the next is {coming}"


@contextlib.contextmanager
def _alone(store: Store, say: Say) -> Iterator[bool]:
    """One retraining at a time; yields whether another one had to be waited for."""
    folder, told = store.root / FOLDER, False
    while True:
        with lock(folder) as held:
            if held:
                me = {"pid": os.getpid(), "host": socket.gethostname(), "since": time.time()}
                storage.write_json(folder / CURRENT, me)
                try:
                    yield told
                finally:
                    (folder / CURRENT).unlink(missing_ok=True)
                return
        if not told:
            with contextlib.suppress(StepVideoError):  # it has just ended
                at = storage.read_json(folder / CURRENT)
                say(f"another retraining is at it (process {at['pid']} on {at['host']}); waiting for what comes of it")
                told = True
        time.sleep(POLL_S)


def _last(store: Store) -> str:
    """What the newest finished retraining said."""
    records = [storage.read_json(p) for p in (store.root / FOLDER).glob("*.json") if len(p.stem) == 16]
    found = sorted((r for r in records if r.get("state") == DONE), key=lambda r: r["ended"])
    return f"{found[-1]['outcome']}: {found[-1]['said']}" if found else "see stepvideo promotions"
