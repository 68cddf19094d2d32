"""Reasons to retrain, as small files: whoever has new data or labels leaves one, a retraining takes them all.

    <store>/_triggers/<time>-<id>.json      {reason, detail, overrides, by, time}
    <store>/_triggers/done/…                with the outcome
    <store>/_triggers/refused/…             what cannot be read

Where a Prefect server is known, an event of the same meaning is sent too, which starts a deployment at once.
"""

from __future__ import annotations

import contextlib
import getpass
import os
import socket
import time
import uuid
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from flows.events import post
from stepvideo import storage
from stepvideo.artifact import Store
from stepvideo.config import load
from stepvideo.errors import StepVideoError

FOLDER = "_triggers"
EVENTS = {
    "data": "stepvideo.data.published",
    "drift": "stepvideo.gate.drifted",
    "labels": "stepvideo.labels.added",
    "manual": "stepvideo.retrain.asked",
}
"""Reason → the event that Prefect is sent."""


@dataclass
class Trigger:
    """Why somebody wants a retraining.

    Attributes:
        overrides: settings of the cascade that belong to it, such as the folder of the new data.
        time: seconds since 1970.
    """

    reason: str = "manual"
    detail: str = ""
    overrides: list[str] = field(default_factory=list)
    by: str = ""
    time: float = 0.0

    def __post_init__(self) -> None:
        if self.reason not in EVENTS:
            raise ValueError(f"reason={self.reason!r}: choose one of {', '.join(EVENTS)}")

    def __str__(self) -> str:
        return f"{self.reason}{f' ({self.detail})' if self.detail else ''}"


def leave(
    store: Store, reason: str, detail: str = "", overrides: list[str] | None = None, name: str = ""
) -> tuple[Path, str]:
    """Leave a trigger; its file, and what became of the event for Prefect, in words.

    Args:
        name: of what has happened, such as a digest: it is told once, however often it is seen. By default of now.

    Raises:
        ConfigError: an unknown reason. ArtifactError: the store cannot be written.
    """
    about = {"reason": reason, "detail": detail, "overrides": list(overrides or [])}
    trigger = load(Trigger, {**about, "by": f"{getpass.getuser()}@{socket.gethostname()}", "time": time.time()})
    path = store.root / FOLDER / f"{name or time.strftime('%Y%m%d-%H%M%S-') + uuid.uuid4().hex[:6]}.json"
    if told := next((p for p in (path, *path.parent.glob(f"*/{path.name}")) if p.exists()), None):
        return told, "it was told before"
    storage.write_json(path, asdict(trigger))
    return path, _emit(trigger, path)


def waiting(store: Store) -> list[tuple[Path, Trigger]]:
    """The triggers that nobody has taken, by their time. What cannot be read is put aside, so that it stops nothing."""
    found = []
    for path in sorted((store.root / FOLDER).glob("*.json")):
        try:
            found.append((path, load(Trigger, _plain(storage.read_json(path)), str(path))))
        except StepVideoError as e:
            _move(path, "refused", {"error": str(e)})
        except (TypeError, AttributeError, KeyError) as e:  # JSON, but of another shape
            _move(path, "refused", {"error": f"{path} is no trigger: {e}"})
    return sorted(found, key=lambda each: each[1].time)


def _plain(data: Any) -> dict[str, Any]:
    """A trigger's fields; `stepvideo data publish` leaves those of flows/data_event.py."""
    if data.get("kind") != "data_version":
        return data
    after = f" after {data['parent']}" if data.get("parent") else ""
    about = {"reason": "data", "detail": f"version {data['name']}{after}", "time": float(data["time"])}
    return about | {"overrides": data.get("overrides") or []}


def refused(store: Store) -> list[str]:
    """Why triggers were put aside."""
    return [storage.read_json(p)["error"] for p in sorted((store.root / FOLDER / "refused").glob("*.json"))]


def merged(triggers: Sequence[tuple[Path, Trigger]]) -> tuple[list[str], dict[Path, str]]:
    """The settings of all triggers, of each setting the newest value; and what became of those that lost one to it."""
    newest = {o.partition("=")[0]: (o, path) for path, trigger in triggers for o in trigger.overrides}
    late = {
        path: f"not served, {chosen} of {by.name} is newer"
        for path, trigger in triggers
        for o in trigger.overrides
        for chosen, by in [newest[o.partition("=")[0]]]
        if chosen != o
    }
    return [o for o, _ in newest.values()], late


def refuse(path: Path, trigger: Trigger, error: str) -> None:
    """Put a trigger aside that no run can serve."""
    _move(path, "refused", {**asdict(trigger), "error": error})


def done(path: Path, trigger: Trigger, outcome: str) -> None:
    """Take a trigger away, for good; what came of it is kept."""
    _move(path, "done", {**asdict(trigger), "outcome": outcome, "taken": time.time()})


def _move(path: Path, where: str, about: dict[str, Any]) -> None:
    """A new file first: killed in between, the trigger is taken once more, which finds nothing to do."""
    storage.write_json(path.parent / where / path.name, about)
    with contextlib.suppress(FileNotFoundError):
        path.unlink()


def _emit(trigger: Trigger, path: Path) -> str:
    if not os.environ.get("PREFECT_API_URL"):
        return "no Prefect server is known (PREFECT_API_URL): the next `stepvideo retrain` takes it"
    return send(EVENTS[trigger.reason], str(path), asdict(trigger))


def send(event: str, resource: str, payload: dict[str, Any]) -> str:
    """An event to Prefect, as well as it can; what became of it, in words. Does nothing where no server is known."""
    if not os.environ.get("PREFECT_API_URL"):
        return ""
    about = {"prefect.resource.id": f"stepvideo.{event.removeprefix('stepvideo.')}", "stepvideo.file": resource}
    try:
        post(event, about, payload)
    except Exception as e:  # whatever its client raises: the file is what counts
        return f"Prefect did not take the event {event}: {e}"
    return f"event {event} was sent to Prefect"
