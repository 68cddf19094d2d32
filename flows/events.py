"""Events to Prefect: posted at once, so that it is known whether they arrived; its own worker would only log that."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

TIMEOUT_S = 10


def post(event: str, resource: Mapping[str, str], payload: Mapping[str, Any]) -> None:
    """Send one event to the server that PREFECT_API_URL names now, not when Prefect was imported.

    Args:
        resource: its labels, `prefect.resource.id` among them.

    Raises:
        Exception: whatever its client raises, if the server is not reached or refuses.
    """
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.events import Event, Resource

    about = Event(event=event, resource=Resource(dict(resource)), payload=dict(payload))
    client = SyncPrefectClient(
        os.environ["PREFECT_API_URL"],
        auth_string=os.environ.get("PREFECT_API_AUTH_STRING"),
        api_key=os.environ.get("PREFECT_API_KEY"),
        httpx_settings={"timeout": TIMEOUT_S},
    )
    with client:
        client._client.post("/events", json=[about.model_dump(mode="json")]).raise_for_status()
