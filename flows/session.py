"""One invocation of a cascade, with or without Prefect around it: compose, record, run, report."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows import driver, retrain_triggers
from flows.compose import ROOT, chosen, compose, data_folder
from flows.config import CascadeConfig
from flows.graph import Node, build
from flows.plan import fingerprints, spec_of
from stepvideo.artifact import Artifact, Store
from stepvideo.stage import StageSpec
from tasks import data_version
from tasks.drift import drifted
from tasks.gatekeeper import GATED, check
from tasks.launch import Launcher
from tasks.launchers import launcher
from tasks.ledger import Ledger
from tasks.mirroring import Mirroring
from tasks.patient import PatientTracking
from tasks.producers import producers
from tasks.reap import reap_mlflow, reap_records
from tasks.record import RunRecord, recorded
from tasks.shipping import Shipping
from tasks.snapshot import snapshot
from tasks.stages import Listener, Outcome, run_stage
from tasks.tracking import Server

if TYPE_CHECKING:
    from tasks.gates import GateReport

Wrap = Callable[[str, Callable[[], Any]], Any]  # (name of the step, what does it) → what that returned


@dataclass
class Session:
    """What the stages of one invocation share."""

    cfg: dict[str, Any]
    nodes: list[Node]
    store: Store
    code: dict[str, str]  # kind: fingerprint
    launcher: Launcher
    record: RunRecord
    listeners: list[Listener]
    tracking: PatientTracking | None = None
    copies: Mirroring | None = None
    lineage: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)  # for people, at the end
    made: dict[str, Artifact] = field(default_factory=dict)  # node name: its artifact, once it is there
    killed: int = 0  # former drivers whose records were closed
    cancel: threading.Event = field(default_factory=threading.Event)
    started: float = field(default_factory=time.monotonic)

    def run(self, wrap: Wrap) -> dict[str, Outcome]:
        """Every node in order, with a gate after those of `GATED`; `wrap(name, call)` runs each. {node name: outcome}.

        Raises:
            GateFailed: a table does not meet a critical expectation.
        """

        def one(node: Node, inputs: Mapping[str, Artifact]) -> Outcome:
            def call() -> Outcome:
                return self.run_node(node, inputs)

            outcome = wrap(node.name, call)
            self.made[node.name] = outcome.artifact
            if node.kind in GATED and self.cfg["gate"]:
                wrap(f"gate.{node.name}", lambda: self.gate(node, outcome.artifact))
            return outcome

        results = driver.execute(self.nodes, one, self.cfg["cluster"]["concurrency"], self.cancel)
        if self.copies:
            self.notes += self.copies.close()
        if self.tracking:
            self.tracking.settle()
        return results

    def run_node(self, node: Node, inputs: Mapping[str, Artifact]) -> Outcome:
        """Bring one node to its artifact. See `tasks.stages.run_stage`."""
        spec = spec_of(node, inputs, self.store, self.code, self.lineage)
        self.record.update_stage(node.name, key=spec.key, state="running")
        if self.copies and not self.store.find(node.name, spec.key, verify=False):
            self.copies.bring(self.store, node.name, spec.key)
        try:
            outcome = run_stage(
                spec,
                self.launcher,
                _All(self.listeners),
                grace_s=self.cfg["cluster"]["grace_s"],
                cancel=self.cancel,
                lineage=_tracking_ids,
            )
        except BaseException as e:
            self.record.update_stage(node.name, state="failed", error=str(e))
            raise
        about = {"cached": outcome.cached, "seconds": outcome.seconds, "metrics": outcome.artifact.metrics}
        self.record.update_stage(node.name, state="complete", digest=outcome.artifact.digest, **about)
        return outcome

    def gate(self, node: Node, made: Artifact) -> GateReport:
        """Great Expectations over what a stage made; Data Docs lie beside the artifact, and the record says where."""
        from tasks.gates import GateFailed

        catalog = self._catalog(node)
        assert catalog is not None, f"{node.name} comes from no catalog"
        try:
            report = check(node.kind, node.config, made, catalog, self.store)
        except GateFailed as e:
            self._judged(node, made, e.report)
            raise
        self._judged(node, made, report)
        self.notes.append(f"data docs: {report.docs_index_path}")
        self.notes += [f"warning: {w}" for w in report.warnings]
        return report

    def _judged(self, node: Node, made: Artifact, report: GateReport) -> None:
        """Into the record. Data that fail or have drifted are a reason to retrain, which is left in the store."""
        about = {"passed": report.success, "warnings": len(report.warnings), "docs": str(report.docs_index_path)}
        self.record.update_stage(node.name, gate=about)
        moved = drifted([*report.warnings, *report.failed])
        if moved or not report.success:
            said = f"{node.name} has drifted: {', '.join(moved)}" if moved else f"{node.name} failed its gate"
            retrain_triggers.leave(self.store, "drift", said, name=f"drift-{made.digest[:16]}")

    def _catalog(self, node: Node) -> Path | None:
        """The catalog that a node makes, or that it comes from."""
        if node.kind == "curate":
            return self.made[node.name].out
        sources = [n for n in self.nodes if n.name in node.inputs.values()]
        return next((found for n in sources if (found := self._catalog(n))), None)

    def register(self, results: Mapping[str, Outcome]) -> str:
        """The final model to the registry, as `candidate`; "name version N", or "" where there is nothing to do."""
        finals = [n.name for n in self.nodes if n.final and n.name in results]
        if not (finals and self.cfg["register"] and self.tracking and not self.tracking.broken):
            return ""
        from tasks.registry import register

        name = self.cfg["tracking"]["model_name"]
        run_id = self.tracking.children.get(finals[-1], "")
        version = register(self.tracking.server, name, results[finals[-1]].artifact, run_id, self.lineage)
        return f"{name} version {version} (candidate), from {finals[-1]}"


def prepare(overrides: list[str], until: str | None = None) -> tuple[dict[str, Any], list[Node]]:
    """The config and the nodes of a run; raw data that is missing is pulled first."""
    if chosen(overrides, "graph", CascadeConfig.graph) == CascadeConfig.graph:
        data_version.pull_if_missing(data_folder(overrides), ROOT)
    cfg = compose(overrides)
    return cfg, build(cfg, until)


@contextlib.contextmanager
def session(
    cfg: dict[str, Any],
    nodes: list[Node],
    overrides: list[str],
    until: str | None,
    listeners: list[Listener],
) -> Iterator[Session]:
    """A session with its record in the store, and with its parent run if MLflow is to be told.

    Raises:
        ArtifactError: the store cannot be written.
    """
    store = Store(cfg["store"])
    store.check_writable()
    debug = cfg["cluster"]["launcher"] == "debug"
    about = {
        "config": cfg,
        "overrides": overrides,
        "until": until,
        "nodes": [{"name": n.name, "kind": n.kind, "inputs": n.inputs} for n in nodes],
    }
    with recorded(store, **about) as record:  # before the code is copied, or gc may take the copy
        copied = snapshot(store.root) if cfg["cluster"]["snapshot"] and not debug else None
        lineage = {**data_version.lineage(ROOT), "run": record.data["id"], "command": command(overrides, until)}
        cluster = cfg["cluster"]
        jobs = launcher(cluster["launcher"], copied, cluster["grace_s"], cluster["slurm"])
        dead = reap_records(store)
        tracking = _tracking(cfg, store, lineage) if cfg["tracking"]["mlflow"] else None
        also: list[Listener] = [tracking] if tracking else []
        also += producers((n.config for n in nodes), jobs, copied)
        consumer = Shipping(store.root)
        also.append(consumer)
        copies = Mirroring(cfg["tracking"]["mirror"]) if cfg["tracking"]["mirror"] else None
        also += [copies] if copies else []
        code = fingerprints(nodes)
        heard = [*listeners, *also]
        s = Session(cfg, nodes, store, code, jobs, record, heard, tracking, copies, lineage, killed=len(dead))
        try:
            yield s
        except BaseException as e:
            if tracking:
                tracking.close(e)
            raise
        finally:
            consumer.close()
            if copies:
                copies.close()
        if tracking:
            tracking.close()
            record.update_tracking(mlflow_parent=tracking.parent, mlflow=tracking.children, broken=tracking.broken)


def _tracking(cfg: Mapping[str, Any], store: Store, lineage: Mapping[str, Any]) -> PatientTracking:
    """MLflow with this run's parent in it, and without what dead drivers left."""
    server = Server(cfg["tracking"], Path(cfg["work"]))
    tracking = PatientTracking(server, lineage, cfg)
    tracking.open(lambda: reap_mlflow(store, server))
    return tracking


def command(overrides: list[str], until: str | None) -> str:
    """The line that makes this run again."""
    import shlex

    return shlex.join(["stepvideo", "run", *overrides, *(["--until", until] if until else [])])


def _tracking_ids(ledger: Ledger) -> dict[str, Any]:
    return {k: v for k, v in ledger.tracking.items() if k != "offset"}


class _All:
    """Several listeners as one."""

    def __init__(self, listeners: list[Listener]) -> None:
        self._listeners = listeners

    def started(self, spec: StageSpec, ledger: Ledger, attached: bool) -> None:
        for each in self._listeners:
            each.started(spec, ledger, attached)

    def events(self, spec: StageSpec, records: list[dict[str, Any]], offset: int) -> None:
        for each in self._listeners:
            each.events(spec, records, offset)

    def ended(self, spec: StageSpec, outcome: Outcome | None, error: BaseException | None) -> None:
        for each in self._listeners:
            each.ended(spec, outcome, error)


def report_page(results: Mapping[str, Outcome]) -> Path | None:
    """The HTML page, where a stage ran that makes one."""
    for outcome in results.values():
        if outcome.artifact.manifest["kind"] in ("report", "sheet"):
            return next(iter(sorted(outcome.artifact.out.glob("*.html"))), None)
    return None
