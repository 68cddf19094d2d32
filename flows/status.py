"""`stepvideo status` and `stepvideo logs`: read the store's files; no server is asked (but by --reap)."""

from __future__ import annotations

import contextlib
import sys
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from rich.markup import escape
from rich.table import Table

from flows import screen
from flows.compose import ROOT
from flows.screen import STYLE, clock, key_metric
from stepvideo import storage
from stepvideo.artifact import Store, damage, is_running
from stepvideo.errors import ArtifactError
from stepvideo.sink import read_events
from tasks.keeping_items import in_bytes
from tasks.ledger import Ledger
from tasks.logs import Tail
from tasks.record import RunRecord, records
from tasks.slurm_queue import RECORD, Job, in_words, squeue, waits

COMPLETE, WAITING = "complete", "waiting"


def store_of(folder: str | None) -> Store:
    """The store that a command was given, or the default one."""
    store = Store(folder or ROOT / "runs" / "store")
    if not store.root.is_dir():
        raise ArtifactError(f"there is no store {store.root} yet; `stepvideo run` makes it, --store names another")
    return store


def status_command(folder: str | None, reap: bool, as_json: bool) -> int:
    """The stages of the newest run in the store, and how far they are. Exit code 1 if one failed or is damaged."""
    store = store_of(folder)
    console = screen.console(stderr=as_json)
    if reap:
        from flows.reap import reap_all

        for line in reap_all(store) or ["nothing was left open"]:
            console.print(line, highlight=False)
    found = records(store)
    if not found:
        raise ArtifactError(f"nothing was run in {store.root} yet; start with `stepvideo run`")
    record = found[-1]
    rows = stage_rows(store, record)
    if as_json:
        import json

        print(json.dumps({"run": record.data["id"], "state": run_state(record), "stages": rows}, indent=1))
    else:
        console.print(_table(record, rows))
        for row in (r for r in rows if "gate" in r):
            said = "passed" if row["gate"]["passed"] else "FAILED"
            warned = f", {n} warning{'s' * (n > 1)}" if (n := row["gate"]["warnings"]) else ""
            line = f"gate of {row['stage']} {said}{warned}: data docs {row['gate']['docs']}"
            console.print(line, soft_wrap=True, markup=False, highlight=False)
    return 1 if any(r["state"] in ("failed", "damaged") for r in rows) else 0


def run_state(record: RunRecord) -> str:
    """The record's state; "killed" for one whose driver died without a word."""
    return record.state


def all_command(folder: str | None, as_json: bool) -> int:
    """Every run of the store, newest first. Exit code 1 if the newest failed, was killed or was cancelled."""
    store = store_of(folder)
    found = records(store)
    if not found:
        raise ArtifactError(f"nothing was run in {store.root} yet; start with `stepvideo run`")
    rows = run_rows(store, found[::-1])
    if as_json:
        import json

        print(json.dumps({"store": str(store.root), "runs": rows}, indent=1))
    else:
        screen.console().print(_runs_table(store, rows))
        states = Counter(r["state"] for r in rows)
        print(", ".join(f"{n} {state}" for state, n in states.most_common()))
        print("next: stepvideo status --disk | stepvideo archive RUN --out FILE.tar | stepvideo gc")
    return 0 if rows[0]["state"] in ("done", "running") else 1


def run_rows(store: Store, found: Iterable[RunRecord]) -> list[dict[str, Any]]:
    """One row a run: id, name, state, pinned, started, seconds, done and total stages, rank_hours that its own stages
    took (this driver's waiting times the ranks), bytes of the artifacts that it made or took."""
    sizes: dict[tuple[str, str], int] = {}
    rows = []
    for record in found:
        data, stages = record.data, record.data["stages"]
        for ref in record.refs.items():
            if ref not in sizes:
                artifact = store.find(*ref, verify=False)
                sizes[ref] = sum(f["size"] for f in artifact.manifest["files"].values()) if artifact else 0
        ended = data["ended"] or (time.time() if record.is_live else record.path.stat().st_mtime)
        rows.append(
            {
                "id": data["id"],
                "name": data["config"].get("name", ""),
                "state": run_state(record),
                "pinned": record.is_pinned,
                "started": data["started"],
                "seconds": round(ended - data["started"], 1),
                "done": sum(s.get("state") == COMPLETE for s in stages.values()),
                "total": len(data["nodes"]),
                "rank_hours": round(sum(_rank_hours(store, n, s) for n, s in stages.items()), 4),
                "bytes": sum(sizes[ref] for ref in record.refs.items()),
            }
        )
    return rows


def _rank_hours(store: Store, name: str, stage: Mapping[str, Any]) -> float:
    if stage.get("cached", True) or "key" not in stage:
        return 0.0
    artifact = store.find(name, stage["key"], verify=False)
    ranks = artifact.manifest["config"].get("runtime", {}).get("nproc", 1) if artifact else 1
    return float(stage.get("seconds", 0.0)) * int(ranks) / 3600


def _runs_table(store: Store, rows: Iterable[Mapping[str, Any]]) -> Table:
    table = Table(title=f"runs of {store.root}", title_justify="left")
    right = ("took", "stages", "rank-hours", "disk")
    for column in ("run", "name", "", "started", *right):
        table.add_column(column, justify="right" if column in right else "left")
    colours = {"done": "green", "running": "cyan"}
    for r in rows:
        when = time.strftime("%Y-%m-%d %H:%M", time.localtime(r["started"]))
        state = f"[{colours.get(r['state'], 'red')}]{r['state']}[/]{', kept' if r['pinned'] else ''}"
        cost = f"{r['rank_hours']:.3g}" if r["rank_hours"] else "0"
        stages = f"{r['done']}/{r['total']}"
        table.add_row(r["id"], escape(r["name"]), state, when, clock(r["seconds"]), stages, cost, in_bytes(r["bytes"]))
    return table


def stage_rows(store: Store, record: RunRecord) -> list[dict[str, Any]]:
    """One row a stage: stage, state (complete | running | pending | failed | damaged | stopped | waiting), detail, key,
    and what its gate said (passed, warnings, docs) where one stands behind it. Slurm is asked once, if it has jobs."""
    rows, queue = [], None
    if any((store.dir(n, s.get("key", "")) / RECORD).exists() for n, s in record.data["stages"].items()):
        queue = squeue() or {}
    for node in record.data["nodes"]:
        known = record.data["stages"].get(node["name"], {})
        state, detail = _stage(store, node["name"], known.get("key", ""), queue or {})
        row = {"stage": node["name"], "state": state, "detail": detail, "key": known.get("key", "")}
        rows.append(row | ({"gate": known["gate"]} if "gate" in known else {}))
    return rows


def _stage(store: Store, name: str, key: str, queue: Mapping[str, list[Job]]) -> tuple[str, str]:
    if not key:
        return WAITING, ""
    directory = store.dir(name, key)
    jobs = _jobs(directory, queue)
    said = in_words(jobs)
    if is_running(directory):
        return "running", ", ".join(filter(None, (progress(directory), said)))
    artifact = store.find(name, key, verify=False)
    if artifact:
        if wrong := damage(directory, artifact.manifest):
            return "damaged", wrong
        return COMPLETE, key_metric(artifact)
    if said:
        return ("pending" if waits(jobs) else "running"), said
    error = directory / "error.json"
    if error.exists():
        said = storage.read_json(error)
        return "failed", f"{said['type']}: {said['message']}".splitlines()[0]
    return ("stopped", progress(directory)) if directory.exists() else (WAITING, "")


def _jobs(directory: Path, queue: Mapping[str, list[Job]]) -> list[Job]:
    with contextlib.suppress(ArtifactError):  # none was submitted, or its end is known
        return queue.get(storage.read_json(directory / RECORD)["name"], [])
    return []


def progress(directory: Path) -> str:
    """ "40/200 step, 1:20 left" from the job's events; "" before the first."""
    events = read_events(directory / "events.jsonl")[0]
    starts = [i for i, e in enumerate(events) if e.get("name") == "attempt_started"]
    rows = [e for e in events[starts[-1] if starts else 0 :] if e["type"] == "progress"]
    if not rows:
        return "starting" if is_running(directory) else ""
    first, last = rows[0], rows[-1]
    text = f"{last['done']}/{last['total']} {last['unit']}"
    made = last["done"] - first["done"]
    if made > 0 and is_running(directory):
        left = (last["total"] - last["done"]) * (last["time"] - first["time"]) / made
        text += f", {clock(max(0.0, left - (time.time() - last['time'])))} left"
    return text


def _table(record: RunRecord, rows: Iterable[dict[str, Any]]) -> Table:
    started = time.strftime("%Y-%m-%d %H:%M", time.localtime(record.data["started"]))
    name = record.data["config"]["name"]
    table = Table(title=f"{name}, started {started}: {run_state(record)}", title_justify="left")
    for column in ("stage", "", "", "key"):
        table.add_column(column)
    for r in rows:
        style = STYLE.get(r["state"], "green" if r["state"] == COMPLETE else "dim")
        table.add_row(r["stage"], f"[{style}]{r['state']}[/]", escape(r["detail"]), r["key"])
    return table


def logs_command(folder: str | None, stage: str, follow: bool) -> int:
    """Print stdout and stderr of a stage's newest attempt, lines of an array's elements with their numbers.

    `follow` goes on until its job has ended.
    """
    directory = stage_dir(store_of(folder), stage)
    attempts = Ledger(directory).attempts
    if not attempts:
        raise ArtifactError(f"{directory} has no attempt yet")
    if attempts[-1]["launcher"] == "debug":
        raise ArtifactError(f"{stage} ran inside the driver (cluster=debug); its output went to the driver's terminal")
    number = attempts[-1]["number"]
    print(f"== {directory.parent.name}/{directory.name} attempt {number}", file=sys.stderr)
    tail = Tail(directory, number)
    while True:
        live = follow and _at_it(directory)
        for element, line in tail.read(end=not live):
            print(f"[{element}] {line}" if element else line)
        sys.stdout.flush()
        if not live:
            return 0
        time.sleep(0.5)


def _at_it(directory: Path) -> bool:
    """Whether a job is at a stage, or waits in Slurm for its turn."""
    if is_running(directory):
        return True
    queue = squeue() if (directory / RECORD).exists() else {}
    return queue is None or any(j.active for j in _jobs(directory, queue))


def stage_dir(store: Store, ref: str) -> Path:
    """The newest directory of "stage" or "stage/prefix of a key", complete or not. Raises ArtifactError."""
    name, _, prefix = ref.partition("/")
    found = [p.parent for p in store.root.glob(f"{name}/{prefix}*/spec.json")]
    if not found:
        known = sorted({p.parent.parent.name for p in store.root.glob("*/*/spec.json")})
        raise ArtifactError(f"no stage {ref!r} in {store.root}; there are: {', '.join(known) or 'none'}")
    return max(found, key=lambda p: (p / "spec.json").stat().st_mtime)
