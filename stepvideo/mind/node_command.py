"""`stepvideo mind check | stress`: what is done on a node."""

from __future__ import annotations

import argparse
import json
import os
import time
import uuid
from dataclasses import asdict
from pathlib import Path

from stepvideo.errors import ConfigError
from stepvideo.mind import screen
from stepvideo.mind.checks.host import Expected, Host
from stepvideo.mind.checks.result import Status
from stepvideo.mind.checks.run import CHECKS, chosen
from stepvideo.mind.node import check as look
from stepvideo.mind.node import report, stress_lock
from stepvideo.mind.nodes import locked
from stepvideo.mind.settings import VARIABLE, Folder
from stepvideo.storage import read_json


def check(args: argparse.Namespace) -> int:
    if args.list:
        for c in CHECKS.values():
            print(f"{c.name:10} {(c.run.__doc__ or '').splitlines()[0]}  needs: {c.needs}; {c.timeout_s:g} s at most")
        return 0
    host = Host(args.node, args.overlay)
    if args.uniform:
        return _uniform(args, host)
    if args.slurm:
        found = report(Folder.asked(args.folder), chosen(args.names), host)
    else:
        known = args.folder or os.environ.get(VARIABLE)
        given = Folder(Path(known)).settings().expected if known else {}
        found = look(chosen(args.names), host, Expected.of_json(given, args.node))
    failed = any(r.status == Status.FAIL for r in found)
    if args.json:
        print(json.dumps([asdict(r) for r in found], indent=1))
    elif args.slurm:  # into a log
        print("\n".join(f"{r.status} {r}" for r in found if r.status in (Status.WARN, Status.FAIL) or r.unsure))
    else:
        table = screen.table(args.node, ("check", "", "found", "try"))
        for r in found:
            table.add_row(r.check, f"[{STYLE[r.status]}]{r.status}[/]", screen.escaped(r.detail), screen.escaped(r.fix))
        screen.show(table)
    return int(failed and not args.slurm)


STYLE = {"ok": "green", "warn": "yellow", "fail": "red", "unknown": "dim"}


def _uniform(args: argparse.Namespace, host: Host) -> int:
    from stepvideo.mind.uniform import fingerprint, minority

    folder = Folder.asked(args.folder)
    folder.write_report("prints", args.node, fingerprint(host))
    prints = folder.prints()
    different, split = minority(prints)
    if args.json:
        rows = {node: [asdict(d) for d in found] for node, found in different.items()}
        print(json.dumps({"nodes": len(prints), "different": rows, "split": split}, indent=1))
        return int(bool(different))
    table = screen.table(f"{len(prints)} nodes", ("node", "key", "has", "most have", "share"))
    for node, found in different.items():
        for d in found:
            table.add_row(node, d.key, screen.escaped(d.own or "-"), screen.escaped(d.common or "-"), f"{d.share:.0%}")
    screen.show(table)
    if split:
        print(f"no value is common enough to say who differs: {', '.join(split)}")
    return int(bool(different))


def stress(args: argparse.Namespace) -> int:
    known = args.folder or os.environ.get(VARIABLE)
    folder = Folder(Path(known)) if known else None
    name = args.profile or (folder.settings().stress if folder else "short")
    if args.learn:
        return _learn(Folder.asked(args.folder), name)
    if folder and args.since is not None:
        with locked(stress_lock(folder.root, args.node), wait=False) as free:
            done = folder.report("stress", args.node).get("since") == args.since
            return _stressed(args, folder, name) if free and not done else 0
    return _stressed(args, folder, name)


def _stressed(args: argparse.Namespace, folder: Folder | None, name: str) -> int:
    from stepvideo.mind.stress.run import Expectations, device_kind, held, timed

    measured, seconds = timed(args.device, name, Path(os.environ.get("TMPDIR", "/tmp")))
    kind = f"{device_kind(args.device)}, {name}"
    expected = Expectations(folder.root / "expectations.json").of(kind) if folder else {}
    verdicts = held(measured, expected, args.tolerance)
    ok = not any(v.ok is False for v in verdicts)
    detail = ", ".join(f"{v.test} {v.value:.3g} ({v.share:.0%})" for v in verdicts if v.ok is False)
    said = {"ok": ok, "seconds": seconds, "detail": detail, "kind": kind, "measured": measured}
    if folder:
        report = {**said, "id": uuid.uuid4().hex, "time": time.time(), "since": args.since}
        folder.write_report("stress", args.node, report)
    if args.json:
        print(json.dumps({**said, "verdicts": [asdict(v) for v in verdicts]}, indent=1))
        return int(not ok)
    table = screen.table(f"{args.node}: {kind}, {seconds:.0f} s", ("test", "measured", "of the fleet's median", ""))
    for v in verdicts:
        share = f"{v.share:.0%}" if v.share else "-"
        table.add_row(v.test, f"{v.value:.4g}", share, {True: "ok", False: "[red]fail[/]", None: "not learnt"}[v.ok])
    screen.show(table)
    if folder and any(v.ok is None for v in verdicts):
        print(f"when three nodes or more have reported: stepvideo mind stress --profile {name} --learn")
    return int(not ok)


def _learn(folder: Folder, name: str) -> int:
    """From the last report of each node, all of one kind of machine."""
    from stepvideo.mind.stress.run import Expectations

    kinds: dict[str, dict[str, dict[str, float]]] = {}
    for path in sorted((folder.root / "stress").glob("*.json")):
        said = read_json(path)
        if said["kind"].endswith(f", {name}"):
            kinds.setdefault(said["kind"], {})[path.stem] = said["measured"]
    learnt = {kind: Expectations(folder.root / "expectations.json").learn(kind, s) for kind, s in kinds.items()}
    for kind, found in learnt.items():
        print(f"{kind}: {len(found)} tests from {len(kinds[kind])} nodes")
    if not any(learnt.values()):
        raise ConfigError(f"fewer than three nodes of a kind have reported profile {name}; `mind stress` on each first")
    return 0
