"""`stepvideo run` and `stepvideo plan`."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from rich.console import Console

from flows import screen
from flows.compose import compose
from flows.graph import Node, build
from flows.plan import DEPENDS, HIT, plan, plan_rows
from flows.session import Session, prepare, report_page, session
from stepvideo.artifact import Store
from stepvideo.errors import StepVideoError
from tasks.environment import set_defaults
from tasks.stages import Outcome

NEXT = 'make ui | stepvideo status | stepvideo generate "一个红色的圆向右移动" --out red.mp4'


@dataclass
class Prepared:
    """A run with its config composed and its nodes built, and afterwards its results."""

    cfg: dict[str, Any]
    nodes: list[Node]
    overrides: list[str]
    until: str | None
    console: Console
    results: dict[str, Outcome] = field(default_factory=dict)
    links: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)  # for the end of the run
    record_id: str = ""

    @classmethod
    def make(cls, overrides: list[str], until: str | None, console: Console | None = None) -> Prepared:
        cfg, nodes = prepare(overrides, until)
        set_defaults(cfg)
        return cls(cfg, nodes, overrides, until, console or Console())


class Board(Protocol):
    """Who shows the run beside the terminal: Prefect, or nobody."""

    def opened(self, session: Session) -> None: ...

    def step(self, name: str, call: Callable[[], Any]) -> Any: ...

    def gate_failed(self, findings: list[str]) -> None: ...


class NoBoard:
    def opened(self, session: Session) -> None: ...

    def step(self, name: str, call: Callable[[], Any]) -> Any:
        return call()

    def gate_failed(self, findings: list[str]) -> None: ...


def plan_command(overrides: list[str], until: str | None, as_json: bool) -> int:
    """Print what a run would do; nothing is written."""
    cfg = compose(overrides)
    steps = plan(build(cfg, until), Store(cfg["store"]))
    if as_json:
        print(json.dumps(plan_rows(steps), indent=1, ensure_ascii=False))
        return 0
    console = Console()
    console.print(screen.plan_table(steps))
    hits, waits = (sum(s.state == state for s in steps) for state in (HIT, DEPENDS))
    console.print(f"{hits} of {len(steps)} stages are there, {len(steps) - hits - waits} run, {waits} depend on them")
    return 0


def run_command(overrides: list[str], until: str | None, as_json: bool) -> int:
    """Run a cascade; its table, its page and what to do next at the end."""
    started = time.monotonic()
    console = Console(file=sys.stderr if as_json else sys.stdout)
    prepared = Prepared.make(overrides, until, console)
    if prepared.cfg["tracking"]["prefect"]:
        _in_prefect(prepared)
    else:
        prepared.results = run_prepared(prepared, NoBoard())
    if as_json:
        print(json.dumps(summary(prepared.results), indent=1, ensure_ascii=False))
        return 0
    console.print(screen.result_table(prepared.results, prepared.links))
    console.print(f"{screen.clock(time.monotonic() - started)}; the same command again takes everything from the store")
    for note in prepared.notes:
        console.print(note, soft_wrap=True)
    console.print(f"next: {NEXT}", soft_wrap=True)
    return 0


def _in_prefect(prepared: Prepared) -> None:
    from tasks.prefect_server import temporary_server

    # Tracebacks of stages are in their logs and the flow's state; the message is for the terminal.
    os.environ.setdefault("PREFECT_LOGGING_LEVEL", "CRITICAL")
    work = Path(prepared.cfg["work"])
    with temporary_server(work / "logs" / "prefect-server.log") as wait_until_up:
        if prepared.cfg["tracking"]["mlflow"]:
            import mlflow  # noqa: F401 - while the server starts

        from flows.cascade import PREPARED, cascade
        from tasks.reap import flow_closed

        wait_until_up()
        token = PREPARED.set(prepared)
        try:
            cascade(prepared.overrides, prepared.until)
        finally:
            PREPARED.reset(token)
            flow_closed(Store(prepared.cfg["store"]), prepared.record_id)


def run_prepared(prepared: Prepared, board: Board) -> dict[str, Outcome]:
    """Every node to its artifact, the gate after the catalog, the last model into the registry."""
    view = screen.Screen(len(prepared.nodes), prepared.console)
    with session(prepared.cfg, prepared.nodes, prepared.overrides, prepared.until, [view]) as s:
        prepared.record_id = s.record.data["id"]
        if s.killed:
            prepared.console.print(f"[dim]{s.killed} former run{'s' * (s.killed > 1)} had been killed; going on[/]")
        board.opened(s)
        try:
            with view:
                results = s.run(board.step)
        except StepVideoError as e:
            if report := getattr(e, "report", None):
                board.gate_failed([str(f) for f in report.failed])
            raise
        prepared.notes += s.notes
        if s.tracking:
            prepared.links = {name: link for name in results if (link := s.tracking.link(name))}
            if s.tracking.parent:
                prepared.notes.append(f"MLflow: {s.tracking.server.link(s.tracking.parent)}")
            if s.tracking.broken:
                prepared.notes.append(f"MLflow was not reached and will be caught up: {s.tracking.broken}")
        if page := report_page(results):
            prepared.notes.append(f"report: {page}")
        if version := s.register(results):
            prepared.notes.append(f"registered: {version}")
    return results


def summary(results: Mapping[str, Outcome]) -> list[dict[str, Any]]:
    """One JSON-able dict a stage."""
    return [
        {
            "stage": name,
            "key": o.artifact.manifest["key"],
            "digest": o.artifact.digest,
            "cached": o.cached,
            "seconds": round(o.seconds, 3),
            "metrics": dict(o.artifact.metrics),
            "path": str(o.artifact.out),
        }
        for name, o in results.items()
    ]
