"""`stepvideo mind status | admit | report`, and the loop of `watch`."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

from stepvideo.errors import ConfigError, StepVideoError
from stepvideo.mind import account, screen
from stepvideo.mind.cluster import NodeManager, Unanswered
from stepvideo.mind.faults import Category
from stepvideo.mind.keeper import Keeper
from stepvideo.mind.mover import Mover
from stepvideo.mind.nodes import Kind, Record, State, locked
from stepvideo.mind.repair import Repaired, advance
from stepvideo.mind.score import score
from stepvideo.mind.settings import Folder
from stepvideo.pipes.balance import Load


def status(args: argparse.Namespace) -> int:
    folder = Folder.asked(args.folder)
    settings, breaker, now = folder.settings(), folder.breaker(), time.time()
    records = folder.book.all()
    if args.node:
        if args.node not in records:
            raise ConfigError(f"nothing is known of node {args.node}; known: {', '.join(records) or 'none'}")
        records = {args.node: records[args.node]}
    rows = []
    for name, record in records.items():
        alerts = [e for e in record.history if e.kind == Kind.ALERT]
        row = {"node": name, "state": record.state.value, "since": record.since, "pool": record.home}
        row |= {"score": round(score(record, now, settings.scoring), 4), "alerts": len(alerts)}
        row |= {"fault": alerts[-1].name if alerts else "", "detail": alerts[-1].detail if alerts else ""}
        rows.append(row)
    code = int(args.check and bool(breaker.open))
    if args.json:
        history = [asdict(e) for e in records[args.node].history] if args.node else None
        said = {"nodes": rows, "breaker": breaker.json(), **({"history": history} if history is not None else {})}
        print(json.dumps(said, indent=1))
        return code
    table = screen.table("nodes", ("node", "state", "for", "pool", "score", "alerts", "last fault"))
    for r in rows:
        cells = (r["node"], r["state"], screen.ago(now - r["since"]), r["pool"], f"{r['score']:.3f}", str(r["alerts"]))
        table.add_row(*cells, r["fault"])
    screen.show(table)
    if args.node:
        for e in records[args.node].history:
            took = f" {e.seconds:.0f} s" if e.seconds else ""
            print(f"  {screen.ago(now - e.time):>6} ago  {e.kind:6} {e.name}{took}  {e.detail}")
    if breaker.open:
        print(f"the circuit breaker is open: {breaker.open}\n  then: stepvideo mind admit --close-breaker")
    out = [r["node"] for r in rows if r["state"] == "out for repair"]
    if out:
        print(
            f"waiting for a person: {', '.join(out)}\n  when repaired: stepvideo mind admit {out[0]} --repaired replace"
        )
    if not rows:
        print("no node is known yet: `stepvideo mind watch` keeps them")
    return code


def admit(args: argparse.Namespace) -> int:
    folder = Folder.asked(args.folder)
    if not args.nodes and not args.close_breaker:
        raise ConfigError("which node? See `stepvideo mind status` for those that are out for repair")
    categories = {c.value.lower(): c for c in Category}
    if args.category and args.category.lower() not in categories:
        raise ConfigError(f"--category {args.category}: give one of {', '.join(c.value for c in Category)}")
    event = Repaired(args.repaired, categories.get((args.category or "").lower()), args.note)

    def change(record: Record | None) -> Record:
        assert record
        after, actions = advance(record, event, time.time())
        if not actions:
            hint = "scontrol resume it as you drained it" if record.state == State.ADMIN else "it waits for nobody"
            raise ConfigError(f"{record.name} is {record.state}, not out for repair: {hint}")
        return after

    known = folder.book.all()
    if unknown := [n for n in args.nodes if n not in known]:
        raise ConfigError(f"nothing is known of {', '.join(unknown)}; known: {', '.join(known) or 'none'}")
    states = {name: folder.book.update(name, change).state.value for name in args.nodes}
    was = folder.close_breaker().open if args.close_breaker else ""
    if args.json:
        print(json.dumps({"nodes": states, "breaker_was": was}))
        return 0
    for name, state in states.items():
        print(f"{name}: {state}; stress test and admission follow by themselves: stepvideo mind status --node {name}")
    if args.close_breaker:
        print(f"the breaker was open: {was}" if was else "the breaker was not open")
    return 0


def report(args: argparse.Namespace) -> int:
    if not (store := Path(args.store)).is_dir():
        raise ConfigError(f"there is no store {store}; --store names it")
    found = account.report(store)
    print(json.dumps(found.as_dict(), indent=1) if args.json else found.text())
    return 0


def keep(
    folder: Folder,
    manager: NodeManager,
    every_s: float,
    rounds: int = 0,
    said: Callable[[str], None] = print,
    loads: Callable[[], Sequence[Load]] = tuple,
) -> int:
    """Keeps nodes until it is interrupted, or for so many rounds; one keeper at a time.

    Args:
        loads: see `mover.Mover`.
    """

    done, trouble = 0, ""
    with locked(folder.root / ".keeper.lock", wait=False) as free:
        if not free:
            said("another keeper is at work; this one takes over when it ends")
    with locked(folder.root / ".keeper.lock"):
        keeper, mover = Keeper(folder, manager, said), Mover(folder, manager, loads, said)
        while not rounds or done < rounds:
            begun = time.monotonic()
            try:
                keeper.tick(time.time())
                mover.tick(time.time())
                trouble = ""
            except (Unanswered, StepVideoError, OSError) as e:  # the next round may do better
                if str(e) != trouble:
                    said(f"stepmind: {e}")
                trouble = str(e)
            done += 1
            if done != rounds:
                time.sleep(max(every_s - (time.monotonic() - begun), 0.05))
    return 0
