"""A run from its overrides to its results: the part that is the same with Prefect around it and without."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from rich.console import Console

from flows import screen
from flows.forecast import check_disk
from flows.graph import Node
from flows.session import Session, prepare, report_page, session
from stepvideo.errors import StepVideoError
from tasks.environment import set_defaults
from tasks.stages import Outcome

if TYPE_CHECKING:
    from tasks.gates import GateReport


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
    error: BaseException | None = None  # that ended it

    @classmethod
    def make(cls, overrides: list[str], until: str | None, console: Console | None = None) -> Prepared:
        cfg, nodes = prepare(overrides, until)
        check_disk(cfg, nodes)
        set_defaults(cfg)
        return cls(cfg, nodes, overrides, until, console or screen.console())


class Board(Protocol):
    """Who shows the run beside the terminal: Prefect, or nobody."""

    def opened(self, session: Session) -> None: ...

    def step(self, name: str, call: Callable[[], Any]) -> Any: ...

    def gate_failed(self, report: GateReport) -> None: ...


class NoBoard:
    def opened(self, session: Session) -> None: ...

    def step(self, name: str, call: Callable[[], Any]) -> Any:
        return call()

    def gate_failed(self, report: GateReport) -> None: ...


def run_prepared(prepared: Prepared, board: Board) -> dict[str, Outcome]:
    """Every node to its artifact, the gate after the catalog, the last model into the registry."""
    here = prepared.cfg["cluster"]["launcher"] != "slurm"
    view = screen.Screen(len(prepared.nodes), prepared.console, here)
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
                board.gate_failed(report)
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
        try:
            if version := s.register(results):
                prepared.notes.append(f"registered: {version}")
        except StepVideoError as e:
            prepared.notes.append(f"not registered, the same command tries it again: {e}")
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
