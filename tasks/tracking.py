"""MLflow: one parent run a cascade, one child a stage key. Explicit run ids through `MlflowClient`, no active run.

Jobs know nothing of it: the driver follows their `events.jsonl` and keeps in the ledger how far it has logged, so a new
driver goes on in the same child, and what a dead one missed is logged later. When MLflow fails, training goes on.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from stepvideo.artifact import Artifact, Store
from stepvideo.config import digest
from stepvideo.sink import read_events
from stepvideo.stage import StageSpec
from tasks.ledger import Ledger
from tasks.stages import Cancelled, Outcome
from tasks.tracking_content import filter_tags, headlines, log_content, model_tags

log = logging.getLogger("stepvideo.tracking")

MAX_PARAMS, MAX_VALUE, MAX_METRICS = 100, 500, 1000  # MLflow's limits a batch; values are cut well below its 6000
UI = "http://127.0.0.1:5000"  # where `make ui` serves a local database
FINISHED, FAILED, KILLED, RUNNING = "FINISHED", "FAILED", "KILLED", "RUNNING"


class Server:
    """A tracking server or database, connected to on first use: the import and a new database take seconds."""

    def __init__(self, tracking: Mapping[str, Any], work: Path) -> None:
        self._uri, self._experiment, self._work = tracking["mlflow_uri"], tracking["experiment"], work
        self._lock = threading.Lock()
        self._client: Any = None
        self._experiment_id = ""

    @property
    def uri(self) -> str:
        return self._uri

    @property
    def client(self) -> Any:
        with self._lock:
            if self._client is None:
                self._client = self._connect()
            return self._client

    @property
    def experiment_id(self) -> str:
        return self.client and self._experiment_id

    def link(self, run_id: str) -> str:
        """A page of MLflow's UI; of a local database, the one that `make ui` serves."""
        base = UI if self._uri.startswith("sqlite") else self._uri.rstrip("/")
        return f"{base}/#/experiments/{self._experiment_id}/runs/{run_id}"

    def _connect(self) -> Any:
        if self._uri.startswith("sqlite:///"):
            Path(self._uri.removeprefix("sqlite:///")).parent.mkdir(parents=True, exist_ok=True)
        logging.getLogger("mlflow").setLevel(logging.WARNING)
        logging.getLogger("alembic").setLevel(logging.WARNING)
        from mlflow import MlflowClient

        client = MlflowClient(tracking_uri=self._uri, registry_uri=self._uri)
        found = client.get_experiment_by_name(self._experiment)
        if found is None:
            local = f"file://{self._work}/mlartifacts" if self._uri.startswith("sqlite") else None
            self._experiment_id = client.create_experiment(self._experiment, artifact_location=local)
        else:
            self._experiment_id = found.experiment_id
        return client


def _guarded(method: Callable[..., None]) -> Callable[..., None]:
    """MLflow may fail, the cascade goes on: say so once. `tasks.patient` asks again."""

    def call(self: Tracking, *args: Any) -> None:
        if self.broken:
            return
        try:
            method(self, *args)
        except Exception as e:
            self.broken = f"{type(e).__name__}: {e}".splitlines()[0]
            if not self.failed:
                log.warning("MLflow failed, the run goes on and tells it later: %s", self.broken)
            self.failed = True

    return call


class Tracking:
    """A listener of stages that writes to MLflow."""

    def __init__(self, server: Server, lineage: Mapping[str, Any], cfg: Mapping[str, Any]) -> None:
        self.server, self._lineage, self._cfg = server, dict(lineage), cfg
        self.broken = ""  # why the last call failed
        self.failed = False  # whether one ever did
        self.parent = ""
        self.children: dict[str, str] = {}  # stage: run id
        self._ledgers: dict[str, Ledger] = {}
        self._lock = threading.Lock()

    @_guarded
    def open(self, before: Callable[[], object]) -> None:
        """Connect, call `before`, and create the parent run."""
        client = self.server.client
        before()
        name = f"{self._cfg['name']}-{self._lineage.get('run', '')}"
        tags = {"mlflow.runName": name, "kind": "cascade", "host": socket.gethostname(), **self._tags()}
        tags["store"] = self._cfg["store"]
        self.parent = self.parent or self._new_run(tags, "kind")
        client.log_dict(self.parent, dict(self._cfg), "config.json")
        _log_params(client, self.parent, {k: v for k, v in _flat(self._cfg).items() if not k.startswith("stages.")})

    @_guarded
    def close(self, error: BaseException | None = None) -> None:
        """End the parent run; its `stages.json` names the child that made each artifact, cached ones too."""
        if not self.parent:
            return
        client = self.server.client
        client.log_dict(self.parent, self.children, "stages.json")
        status = FINISHED if error is None else FAILED if isinstance(error, Exception) else KILLED
        client.set_terminated(self.parent, status)

    def link(self, stage: str) -> str:
        run_id = self.children.get(stage)
        return self.server.link(run_id) if run_id and not self.broken else ""

    @_guarded
    def started(self, spec: StageSpec, ledger: Ledger, attached: bool) -> None:
        client = self.server.client
        run_id = self._known(ledger)
        if run_id:
            client.update_run(run_id, status=RUNNING)
            if not ledger.tracking.get("described", True):
                self._describe(spec, ledger)
        else:
            run_id = self._create(spec, ledger)
        for key, value in {"attempt": len(ledger.attempts) + (not attached), "driver": os.getpid()}.items():
            client.set_tag(run_id, key, str(value))
        self._ledgers[spec.stage] = ledger
        self._remember(spec.stage, run_id)

    @_guarded
    def events(self, spec: StageSpec, records: list[dict[str, Any]], offset: int) -> None:
        ledger = self._ledgers[spec.stage]
        _log_events(self.server.client, ledger.tracking["run_id"], records)
        ledger.update_tracking(offset=offset)

    @_guarded
    def ended(self, spec: StageSpec, outcome: Outcome | None, error: BaseException | None) -> None:
        if outcome is not None:
            ledger = self._ledgers.get(spec.stage) or Ledger(outcome.artifact.dir)
            if not self._known(ledger):  # it was made while this server was not told
                self._create(spec, ledger)
            self._remember(spec.stage, finish_child(self.server, ledger, outcome.artifact))
            self._headline(outcome.artifact)
        elif run_id := self.children.get(spec.stage):
            stopped = isinstance(error, Cancelled) or not isinstance(error, Exception)
            self.server.client.set_tag(run_id, "error", str(error)[:MAX_VALUE])
            self.server.client.set_terminated(run_id, KILLED if stopped else FAILED)

    def _remember(self, stage: str, run_id: str) -> None:
        with self._lock:
            self.children[stage] = run_id
        if self.parent:
            self.server.client.set_tag(self.parent, f"stage.{stage}", run_id)

    def _headline(self, artifact: Artifact) -> None:
        """The stage's headlines at the parent, cached stages' too: runs are compared by them."""
        if not self.parent:
            return
        made = int(artifact.manifest["finished"] * 1000)
        _log_metrics(self.server.client, self.parent, [(k, v, made, 0) for k, v in headlines(artifact).items()])
        for key, value in model_tags(artifact).items():
            self.server.client.set_tag(self.parent, key, value)

    def _known(self, ledger: Ledger) -> str:
        return ledger.tracking.get("run_id", "") if ledger.tracking.get("uri") == self.server.uri else ""

    def _create(self, spec: StageSpec, ledger: Ledger) -> str:
        tags = {"mlflow.runName": spec.stage, "mlflow.parentRunId": self.parent, "kind": spec.kind, **self._tags()}
        tags |= {"stage": spec.stage, "stage_key": spec.key, "fingerprint": spec.fingerprint, "store": spec.store}
        tags |= {"artifact": str(Store(spec.store).dir(spec.stage, spec.key) / "out"), "host": socket.gethostname()}
        tags["config_sha"] = digest(spec.config)
        run_id = self._new_run(tags, "stage_key")
        about = {"uri": self.server.uri, "run_id": run_id, "parent": self.parent, "offset": 0, "closed": False}
        ledger.update_tracking(**about, described=False)  # a server that fails from here on is asked for no second run
        self._describe(spec, ledger)
        return run_id

    def _describe(self, spec: StageSpec, ledger: Ledger) -> None:
        """What a stage is made from; telling it twice changes nothing."""
        client, run_id = self.server.client, ledger.tracking["run_id"]
        client.log_dict(run_id, spec.config, "config.json")
        _log_params(client, run_id, _flat(spec.config))
        _log_inputs(client, run_id, spec)
        ledger.update_tracking(described=True)

    def _new_run(self, tags: Mapping[str, str], by: str) -> str:
        """The id of a run with these tags; the one that a server made whose answer was lost, as tag `by` tells."""
        client = self.server.client
        if self.failed and tags.get("run"):
            query = " and ".join(f"tags.`{name}` = '{tags[name]}'" for name in ("run", "store", by))
            if found := client.search_runs([self.server.experiment_id], filter_string=query, max_results=1):
                return found[0].info.run_id
        return client.create_run(self.server.experiment_id, tags=dict(tags)).info.run_id

    def _tags(self) -> dict[str, str]:
        """Lineage as tags; the text of data.dvc is in the manifests."""
        tags = {**self._lineage, **filter_tags(self._cfg, self._lineage)}
        return {k: str(v)[:MAX_VALUE] for k, v in tags.items() if k != "data_dvc"}


def finish_child(server: Server, ledger: Ledger, artifact: Artifact) -> str:
    """Log what is left of a complete stage and end its run; returns the run's id, "" if this server has none."""
    tracking = ledger.tracking
    if tracking.get("uri") != server.uri or not tracking.get("run_id"):
        return ""
    run_id = tracking["run_id"]
    if not tracking.get("closed"):
        client = server.client
        records, offset = read_events(artifact.dir / "events.jsonl", tracking["offset"])
        _log_events(client, run_id, records)
        final = {f"final/{k}": v for k, v in artifact.metrics.items()}
        _log_metrics(client, run_id, [(k, v, int(artifact.manifest["finished"] * 1000), 0) for k, v in final.items()])
        log_content(client, run_id, artifact)
        client.set_tag(run_id, "digest", artifact.digest)
        client.set_terminated(run_id, FINISHED, int(artifact.manifest["finished"] * 1000))
        ledger.update_tracking(offset=offset, closed=True)
    return run_id


def _flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for k, v in config.items():
        name = f"{prefix}{k}"
        flat |= _flat(v, f"{name}.") if isinstance(v, Mapping) else {name: v}
    return flat


def _log_params(client: Any, run_id: str, params: Mapping[str, Any]) -> None:
    from mlflow.entities import Param

    rows = [Param(k, str(v)[:MAX_VALUE]) for k, v in params.items()]
    for i in range(0, len(rows), MAX_PARAMS):
        client.log_batch(run_id, params=rows[i : i + MAX_PARAMS])


def _log_metrics(client: Any, run_id: str, rows: Iterable[tuple[str, float, int, int]]) -> None:
    from mlflow.entities import Metric

    metrics = [Metric(_name(key), value, ms, step) for key, value, ms, step in rows]
    for i in range(0, len(metrics), MAX_METRICS):
        client.log_batch(run_id, metrics=metrics[i : i + MAX_METRICS])


def _log_events(client: Any, run_id: str, records: list[dict[str, Any]]) -> None:
    """Metric rows; their own times make a row that is logged twice the same row to MLflow."""
    rows = [
        (key, value, int(r["time"] * 1000), r["step"])
        for r in records
        if r["type"] == "metrics"
        for key, value in r["values"].items()
    ]
    if rows:
        _log_metrics(client, run_id, rows)


def _name(key: str) -> str:
    """MLflow refuses most punctuation in names."""
    return "".join(c if c.isalnum() or c in "_-./ :" else "_" for c in key)


def _log_inputs(client: Any, run_id: str, spec: StageSpec) -> None:
    from mlflow.entities import Dataset, DatasetInput, InputTag

    inputs = []
    for role, ref in spec.inputs.items():
        place = str(Store(spec.store).dir(ref.stage, ref.key) / "out")
        dataset = Dataset(f"{ref.stage}/{ref.key}", ref.digest[:32], "local", f'{{"uri": "{place}"}}')
        inputs.append(DatasetInput(dataset, [InputTag("mlflow.data.context", role)]))
    if inputs:
        client.log_inputs(run_id, inputs)
