"""The event "data version published": a file in the store for `stepvideo retrain`, and an event of Prefect's."""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import Any

from flows.align import quoted
from flows.events import post
from stepvideo import storage
from stepvideo.artifact import Store
from stepvideo.storage import is_remote
from tasks.record import RUNS
from tasks.versions import Version

TRIGGERS = "_triggers"
KIND = "data_version"
EVENT = "stepvideo.data.published"


def announce(version: Version, store: Store) -> list[str]:
    """Write `<store>/_triggers/data-NAME.json`, and tell a Prefect server if PREFECT_API_URL names one.

    Not twice for one version, as long as the file waits or lies in a folder below, where who took it puts it.

    Returns:
        Notes for people: a server that did not answer is no reason to fail, as the file is what counts.
    """
    known = [place(version.name, store), *(store.root / TRIGGERS).glob(f"*/{place(version.name, store).name}")]
    if not version.new and any(path.exists() for path in known):
        return []  # waits, or was taken and put aside
    about = {"kind": KIND, "name": version.name, "parent": version.meta.get("parent"), "time": version.time}
    about["overrides"] = settings(version, store)  # or a retraining with other settings would not see the new data
    storage.write_json(place(version.name, store), about)
    if not os.environ.get("PREFECT_API_URL"):
        return []
    try:
        _emit(version, about)
    except Exception as e:  # whatever its client raises
        return [f"Prefect at PREFECT_API_URL was not told of {version.name}: {type(e).__name__}: {e}"]
    return [f"event {EVENT} sent to Prefect"]


def place(name: str, store: Store) -> Path:
    return store.root / TRIGGERS / f"data-{name}.json"


def settings(version: Version, store: Store) -> list[str]:
    """What the run that made a version was told about its data: `raw`, `labels`, `data`, settings of its stages.

    Folders as that run understood them, wherever it was started; without its record, only those that are absolute.
    """
    about: dict[str, Any] = version.meta.get("artifacts") or {}
    made = [a for stage, said in about.items() if (a := store.find(stage, said["key"], verify=False))]
    lineage = made[-1].manifest.get("lineage", {}) if made else {}
    given = shlex.split(lineage.get("command", ""))
    record = store.root / RUNS / str(lineage.get("run")) / "run.json"
    config = storage.read_json(record)["config"] if record.exists() else {}
    found = [word for word in given if word.startswith(tuple(f"stages.{stage}." for stage in about))]
    for name in ("raw", "labels", "data"):
        if told := [word for word in given if word.startswith(f"{name}=")]:
            path = str(config.get(name) or told[-1].removeprefix(f"{name}=").strip("'"))
            if is_remote(path) or Path(path).is_absolute():
                found.append(f"{name}={quoted(path)}")
    return found


def _emit(version: Version, about: dict[str, Any]) -> None:
    resource = {"prefect.resource.id": f"stepvideo.data.{version.name}", "prefect.resource.name": version.name}
    post(EVENT, resource, {**about, "digest": version.digest})
