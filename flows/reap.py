"""`stepvideo status --reap`: close what dead drivers left open, wherever they had reported."""

from __future__ import annotations

from pathlib import Path

from stepvideo.artifact import Store
from tasks.environment import set_defaults
from tasks.prefect_server import temporary_server
from tasks.reap import reap_mlflow, reap_prefect, reap_records
from tasks.record import records
from tasks.tracking import Server


def reap_all(store: Store) -> list[str]:
    """What was done, in words. Raises if a server that a run had reported to cannot be reached."""
    dead = reap_records(store)
    done = [f"run {r.data['id']} → killed" for r in dead]
    everyone = records(store)
    servers = {}
    for record in everyone:
        cfg = record.data["config"]
        if cfg["tracking"]["mlflow"]:
            servers[cfg["tracking"]["mlflow_uri"], cfg["tracking"]["experiment"]] = cfg
    for cfg in servers.values():
        set_defaults(cfg)
        done += reap_mlflow(store, Server(cfg["tracking"], Path(cfg["work"])))
    for cfg in {r.data["config"]["work"]: r.data["config"] for r in everyone if _is_open(r.data["tracking"])}.values():
        set_defaults(cfg)
        with temporary_server(Path(cfg["work"]) / "logs" / "prefect-server.log") as wait_until_up:
            wait_until_up()
            done += reap_prefect(store)
    return done


def _is_open(tracking: dict[str, object]) -> bool:
    return bool(tracking.get("flow_run")) and not tracking.get("flow_closed")
