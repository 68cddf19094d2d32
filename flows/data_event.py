"""The event "data version published": a file in the store for `stepvideo retrain`, and an event of Prefect's."""

from __future__ import annotations

import os
from pathlib import Path

from stepvideo import storage
from stepvideo.artifact import Store
from tasks.versions import Version

TRIGGERS = "_triggers"
KIND = "data_version"
EVENT = "stepvideo.data.published"
TIMEOUT_S = 10


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


def _emit(version: Version, about: dict[str, object]) -> None:
    """Sent at once and not by Prefect's background thread, which would only log that it failed."""
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.events import Event, Resource

    resource = Resource(
        {"prefect.resource.id": f"stepvideo.data.{version.name}", "prefect.resource.name": version.name}
    )
    event = Event(event=EVENT, resource=resource, payload={**about, "digest": version.digest})
    server = os.environ["PREFECT_API_URL"]  # Prefect's own settings are those of its first import in this process
    client = SyncPrefectClient(
        server,
        auth_string=os.environ.get("PREFECT_API_AUTH_STRING"),
        api_key=os.environ.get("PREFECT_API_KEY"),
        httpx_settings={"timeout": TIMEOUT_S},
    )
    with client:
        client._client.post("/events", json=[event.model_dump(mode="json")]).raise_for_status()
