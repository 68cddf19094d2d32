"""`stepvideo status --disk`: which stages take how many bytes, how many of them gc would free, and what is left."""

from __future__ import annotations

import json
import shutil
from collections import defaultdict
from typing import Any

from rich.table import Table

from flows import screen
from flows.gc import Asked, make_plan
from flows.status import store_of
from stepvideo.artifact import Store
from stepvideo.errors import ArtifactError
from tasks.keeping import places
from tasks.keeping_items import in_bytes, size


def disk_command(folder: str | None, as_json: bool) -> int:
    """Print it. Exit code 1 if less than a tenth of the disk is free, as the next stage may not fit."""
    store = store_of(folder)
    found = disk(store)
    if as_json:
        print(json.dumps(found, indent=1))
    else:
        console = screen.console()
        console.print(_table(store, found["stages"]))
        free = f"{in_bytes(found['free'])} of {in_bytes(found['disk'])} are free"
        console.print(f"{in_bytes(found['bytes'])} in the store; {free}; gc would free {in_bytes(found['gc'])}")
        if found["registry"]:
            console.print(f"without asking the registry: {found['registry']}", style="yellow", markup=False)
        console.print("next: stepvideo gc | stepvideo gc --what", markup=False)
    return 0 if found["free"] > 0.1 * found["disk"] else 1


def disk(store: Store) -> dict[str, Any]:
    """Bytes: of the store, of its disk, free there, that gc (with its defaults) would free, and by stage. `registry`
    says why a registry could not be asked: then what is registered counts as what gc would free."""
    registry = ""
    try:
        plan = make_plan(store, Asked())
    except ArtifactError as e:
        registry = str(e)
        plan = make_plan(store, Asked(registry=False))
    rows: dict[str, dict[str, Any]] = defaultdict(lambda: {"artifacts": 0, "bytes": 0, "gc": 0})
    for (stage, _), place in places(store).items():
        rows[stage]["artifacts"] += 1
        rows[stage]["bytes"] += size(place)
    for other in store.root.glob("_*"):
        rows[other.name]["bytes"] += size(other)
    for item in plan.items:
        top = item.path.relative_to(store.root).parts[0] if item.path.is_relative_to(store.root) else "elsewhere"
        rows[top]["gc"] += item.bytes
    usage = shutil.disk_usage(store.root)
    stages = [{"stage": name, **row} for name, row in sorted(rows.items(), key=lambda r: -r[1]["bytes"])]
    return {
        "store": str(store.root),
        "bytes": sum(r["bytes"] for r in stages),
        "disk": usage.total,
        "free": usage.free,
        "gc": plan.bytes,
        "registry": registry,
        "stages": stages,
    }


def _table(store: Store, rows: list[dict[str, Any]]) -> Table:
    table = Table(title=f"disk of {store.root}", title_justify="left")
    for column in ("stage", "artifacts", "bytes", "gc would free"):
        table.add_column(column, justify="left" if column == "stage" else "right")
    for r in rows:
        table.add_row(r["stage"], str(r["artifacts"] or ""), in_bytes(r["bytes"]), in_bytes(r["gc"]) if r["gc"] else "")
    return table
