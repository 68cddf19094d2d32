"""`stepvideo gc`: what of a store may go, and its removal."""

from __future__ import annotations

import json
import re
import sys
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.progress import Progress
from rich.table import Table

from flows import screen
from flows.compose import ROOT
from flows.forecast import expected
from flows.graph import build
from flows.status import store_of
from stepvideo.artifact import Store
from stepvideo.errors import ConfigError
from tasks.keeping import Inputs, Rules, places, reasons
from tasks.keeping_items import CATEGORIES, Item, in_bytes, items
from tasks.keeping_named import Ref
from tasks.keeping_sweep import Swept, Watch, only_gc, sweep
from tasks.record import PIN, RunRecord, find_record, records
from tasks.versions import VERSIONS

UNITS = {"s": 1.0, "min": 60.0, "h": 3600.0, "d": 86400.0, "w": 7 * 86400.0}
SHOWN = 20  # lines of a plan on a terminal; --json has all


@dataclass(frozen=True)
class Asked:
    """The options of the command."""

    older_than: str = "30d"
    keep_runs: int = 5
    keep_for: tuple[str, ...] = ()
    only: tuple[str, ...] = ()
    registry: bool = True
    apply: bool = False
    what: bool = False
    as_json: bool = False


@dataclass
class Plan:
    """What would go, and what stays and why."""

    store: Store
    items: list[Item]
    keep: dict[Ref, str]
    everyone: list[RunRecord]

    @property
    def bytes(self) -> int:
        return sum(i.bytes for i in self.items)


def seconds(text: str) -> float:
    """ "30d" → seconds. Raises ConfigError."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(s|min|h|d|w)", text.strip())
    if not found:
        raise ConfigError(f"--older-than {text!r}: give a number with s, min, h, d or w, such as 30d")
    return float(found[1]) * UNITS[found[2]]


def make_plan(store: Store, asked: Asked) -> Plan:
    """What gc would remove now. Nothing is changed.

    Raises:
        ArtifactError: the registry cannot be asked. ConfigError: an unknown category or age, or a missing folder.
    """
    if asked.keep_runs < 0:
        raise ConfigError(f"--keep-runs {asked.keep_runs}: give 0 or more")
    for name in asked.only:
        if name not in CATEGORIES:
            raise ConfigError(f"--only {name!r}: give some of {', '.join(CATEGORIES)}")
    for place in asked.keep_for:
        if not Path(place).exists():
            raise ConfigError(f"--keep-for {place}: there is no such file or folder")
    papers = (ROOT / VERSIONS, *(Path(p).absolute() for p in asked.keep_for))
    rules = Rules(seconds(asked.older_than), asked.keep_runs, papers, asked.registry, asked.only)
    everyone = records(store)
    keep = Inputs(store).closure(reasons(store, rules, everyone, lambda record: wanted(store, record)))
    return Plan(store, items(store, rules, everyone, keep, ROOT / VERSIONS), keep, everyone)


def wanted(store: Store, record: RunRecord) -> set[Ref]:
    """What a run that is at work may yet take from the store: by this code's keys, or else whatever has its names."""
    try:
        nodes = build(record.data["config"], record.data["until"])
        return {(node.name, key) for node, key, _ in expected(nodes, store) if key}
    except Exception:  # a graph or a kind that is not known here
        names = {n["name"] for n in record.data["nodes"]}
        return {ref for ref in places(store) if ref[0] in names}


def gc_command(folder: str | None, asked: Asked) -> int:
    """Print what may go, or remove it. Exit code 0."""
    store = store_of(folder)
    console = screen.console(stderr=asked.as_json)
    if not asked.apply:
        plan = make_plan(store, asked)
        if asked.as_json:
            print(json.dumps(_as_json(plan), indent=1))
        else:
            console.print(_categories(plan))
            if not asked.what:
                console.print(_table(plan))
            _next(console, plan, asked)
        return 0
    store.check_writable()
    with only_gc(store):
        plan = make_plan(store, asked)
        watch = Watch(store, plan.everyone, lambda record: wanted(store, record))
        with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
            task = bar.add_task("removing", total=len(plan.items))
            done = sweep(store, plan.items, watch, lambda _: bar.advance(task))
    if asked.as_json:
        print(json.dumps(_as_json(plan, done), indent=1))
        return 0
    freed = sum(s.item.bytes for s in done if not s.stayed)
    for swept in (s for s in done if s.stayed):
        console.print(f"stays: {swept.item.path}: {swept.stayed}", markup=False, highlight=False, soft_wrap=True)
    console.print(f"removed {sum(not s.stayed for s in done)} of {len(done)}, {in_bytes(freed)} are free again")
    console.print("next: stepvideo status --disk", markup=False)
    return 0


def pin_command(folder: str | None, name: str, pinned: bool) -> int:
    """Keep a run for good, or no longer."""
    record = find_record(store_of(folder), name)
    mark = record.path.parent / PIN
    if pinned:
        mark.touch()
    else:
        mark.unlink(missing_ok=True)
    print(f"run {record.data['id']} {'is kept by gc from now on' if pinned else 'is kept no longer than others'}")
    return 0


def _as_json(plan: Plan, done: Iterable[Swept] = ()) -> dict[str, Any]:
    rows = [{"category": i.category, "path": str(i.path), "why": i.why, "bytes": i.bytes} for i in plan.items]
    said = {str(s.item.path): s.stayed for s in done}
    for row in rows if said else ():
        row["stayed"] = said.get(str(row["path"]), "")
    kept = [{"stage": stage, "key": key, "why": why} for (stage, key), why in sorted(plan.keep.items())]
    return {"store": str(plan.store.root), "bytes": plan.bytes, "items": rows, "kept": kept, "applied": bool(said)}


def _categories(plan: Plan) -> Table:
    table = Table(title=f"gc of {plan.store.root}", title_justify="left")
    for column, side in (("what", "left"), ("", "left"), ("count", "right"), ("bytes", "right")):
        table.add_column(column, justify=side)  # type: ignore[arg-type]
    count = Counter(i.category for i in plan.items)
    for name, text in CATEGORIES.items():
        if count[name]:
            table.add_row(
                name, text, str(count[name]), in_bytes(sum(i.bytes for i in plan.items if i.category == name))
            )
    return table


def _table(plan: Plan) -> Table:
    table = Table(title="the largest", title_justify="left")
    for column in ("what", "where", "why", "bytes"):
        table.add_column(column, overflow="fold")
    for i in sorted(plan.items, key=lambda i: -i.bytes)[:SHOWN]:
        where = i.path.relative_to(plan.store.root) if i.path.is_relative_to(plan.store.root) else i.path
        table.add_row(i.category, str(where), i.why, in_bytes(i.bytes))
    return table


def _next(console: Any, plan: Plan, asked: Asked) -> None:
    stays = Counter(re.sub(r"\S*\d\S*", "…", why) for why in plan.keep.values())
    said = "; ".join(f"{n} because {why}" for why, n in stays.most_common(4))
    console.print(f"{len(plan.keep)} artifacts stay{': ' if said else ''}{said}", markup=False, highlight=False)
    if not asked.registry:
        console.print("the registry was not asked: models that are registered may be among these", style="yellow")
    if not plan.items:
        console.print("nothing may go; --older-than and --keep-runs say what is kept")
        return
    more = " ".join(a for a in sys.argv[2:] if a != "--what")
    console.print(f"{in_bytes(plan.bytes)} would be free; nothing was removed yet")
    console.print(f"next: stepvideo gc {more + ' ' if more else ''}--apply", markup=False, highlight=False)
