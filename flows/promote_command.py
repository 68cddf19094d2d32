"""`stepvideo challenge`, `promote`, `rollback`, `promotions`."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.markup import escape
from rich.table import Table

from flows import screen
from flows.promote import (
    Approval,
    Refused,
    challenge,
    last_config,
    locate,
    promote,
    registry_of,
    rollback,
)
from flows.status import store_of
from stepvideo.config import load
from stepvideo.errors import ConfigError
from tasks import promotion
from tasks.registry import CHAMPION


def challenge_command(folder: str | None, ref: str, against: str, rules: list[str], as_json: bool) -> int:
    """Compare a version with the champion and keep the evidence; no alias is changed. 0 if it is better, else 1."""
    from omegaconf import OmegaConf

    from stepvideo.evaluation.champion import Rules

    if unread := [r for r in rules if "=" not in r]:
        raise ConfigError(f"cannot read the rule {unread[0]!r}; rules are written key=value, such as margin=0.05")
    given = load(Rules, OmegaConf.to_container(OmegaConf.from_dotlist(rules)), "rule")  # type: ignore[arg-type]
    store = store_of(folder)
    run = last_config(store)
    registry = registry_of(run[0])
    console = screen.console(stderr=as_json)
    version, champion = locate(registry, store, ref), locate(registry, store, against)
    if version.digest == champion.digest:
        raise Refused(f"{version} and {champion} ({against}) are the same model, byte for byte")
    found = challenge(registry, store, version, champion, given, run, console)
    if as_json:
        print(json.dumps(dict(found.data), indent=1, ensure_ascii=False))
    else:
        print(f"{found.why}\nevidence: {found.page}")
        print(f"next: stepvideo promote {version.number}" if found.promote else "next: stepvideo promotions")
    return 0 if found.promote else 1


def promote_command(
    folder: str | None, ref: str, alias: str, evidence: list[str], approved_by: str, note: str, force: str
) -> int:
    """Give a version an alias; prints the record's place."""
    store = store_of(folder)
    registry = registry_of(last_config(store)[0])
    version = locate(registry, store, ref)
    approval = Approval(approved_by, note) if approved_by else None
    files = [Path(e) for e in evidence]
    record = promote(registry, store, version, alias=alias, evidence=files, approval=approval, force=force)
    was = f", which was version {record['from']}" if record["from"] is not None else ""
    print(f"{version} is {registry.model}@{alias} now{was}\n{_where(store, record)}")
    print(f"next: stepvideo generate PROMPT --model {registry.model}@{alias} | stepvideo rollback")
    return 0


def rollback_command(folder: str | None, to: int | None, reason: str, approved_by: str) -> int:
    """Give the alias `champion` back."""
    store = store_of(folder)
    registry = registry_of(last_config(store)[0])
    record = rollback(registry, store, to, reason, Approval(approved_by) if approved_by else None)
    print(f"{registry.model}@{CHAMPION} is version {record['version']} again, it was version {record['from']}")
    print(f"{_where(store, record)}\nnext: stepvideo promotions")
    return 0


def promotions_command(folder: str | None, as_json: bool) -> int:
    """Every promotion and rollback, oldest first."""
    records = promotion.history(store_of(folder))
    if as_json:
        print(json.dumps(records, indent=1, ensure_ascii=False))
        return 0
    if not records:
        print("nothing was promoted yet\nnext: stepvideo challenge REF | stepvideo promote REF")
        return 0
    table = Table()
    for column in ("", "when", "what", "alias", "version", "state", "approved by", "why"):
        table.add_column(column, overflow="fold")
    for r in records:
        table.add_row(*(escape(str(cell)) for cell in _row(r)))
    screen.console().print(table)
    if any(r["state"] == promotion.BEGUN for r in records):
        print("one was interrupted: the next `stepvideo promote`, `rollback` or `retrain` finishes it")
    print("next: stepvideo rollback [--to VERSION]; the evidence lies beside each record in _promotions/")
    return 0


def _row(r: Mapping[str, Any]) -> tuple[Any, ...]:
    when = time.strftime("%Y-%m-%d %H:%M", time.localtime(r["begun"]))
    versions = f"{r['from'] if r['from'] is not None else '–'} → {r['version']}"
    why = f"FORCED: {r['forced']}" if r.get("forced") else r.get("reason", "")
    state = f"{r['state']}: {r['error']}" if r.get("error") else r["state"]
    state += f" at {r['registry']}" if r["state"] == promotion.BEGUN else ""
    why += f" (other decisions: {', '.join(r['other_decisions'])})" if r.get("other_decisions") else ""
    return r["id"], when, r["kind"], r["alias"], versions, state, (r["approval"] or {}).get("by", ""), why


def _where(store: Any, record: Mapping[str, Any]) -> str:
    return f"record: {promotion.folder_of(store, record) / promotion.RECORD}"
