"""Who is told when something happens: automations of Prefect's server that call a webhook.

The address, which is often a secret itself, is kept in an encrypted block of the server; it comes from the environment:
STEPVIDEO_WEBHOOK_URL, and STEPVIDEO_WEBHOOK_TOKEN for receivers that want `Authorization: Bearer`.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from datetime import timedelta
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

from stepvideo.errors import ConfigError

URL, TOKEN = "STEPVIDEO_WEBHOOK_URL", "STEPVIDEO_WEBHOOK_TOKEN"
BLOCK = "stepvideo-notify"
PREFIX = "stepvideo: "
GATE_EVENT = "stepvideo.gate.tripped"

# Name: what happened, in words; events; which of them, by labels of the event's resource.
KINDS: dict[str, tuple[str, set[str], dict[str, Any]]] = {
    "failed": ("a run failed", {"prefect.flow-run.Failed"}, {}),
    "crashed": ("a run crashed", {"prefect.flow-run.Crashed"}, {}),
    "late": ("a run is late: is a worker up?", {"prefect.flow-run.Late"}, {}),
    "gate": ("a gate stopped a run", {GATE_EVENT}, {}),
    "approval": ("a run waits for a person", {"stepvideo.approval.waiting"}, {}),
    "lost": ("a run gives no sign of life", {"prefect.flow-run.heartbeat"}, {}),
}
LOST_S = 400  # runs of a worker give a sign every 180 s
ENDS = {f"prefect.flow-run.{name}" for name in ("Completed", "Failed", "Crashed", "Cancelled", "Paused", "Suspended")}
# A template of Prefect: JSON whose "text" chats show, the rest for programs.
PAYLOAD = """{"text": {{ ("%s: " + %s) | tojson }}, "kind": "%s", "event": {{ event.event | tojson }},
"run": {{ (flow_run.name if flow_run else "") | tojson }},
"flow_run": {{ (flow_run.id if flow_run else "") | string | tojson }}, "payload": {{ event.payload | tojson }}}"""
_RUN = '(flow_run.name if flow_run else event.resource.get("prefect.resource.name", event.resource.id))'
_OWN = 'event.resource.get("prefect.resource.name", event.resource.id)'


def payload(kind: str) -> str:
    """The template of what a webhook is sent."""
    return PAYLOAD % (KINDS[kind][0], _OWN if kind in ("gate", "approval") else _RUN, kind)


def trigger(kind: str) -> Any:
    """When: at each event, or where a run's signs of life end."""
    from prefect.events import EventTrigger
    from prefect.events.schemas.automations import Posture

    _, events, match = KINDS[kind]
    if kind == "lost":
        each = {"prefect.resource.id"}
        within = timedelta(seconds=LOST_S)
        return EventTrigger(
            match={"prefect.resource.id": "prefect.flow-run.*"},
            after=events, expect=events | ENDS, for_each=each, posture=Posture.Proactive, threshold=1, within=within,
        )  # fmt: skip
    return EventTrigger(match=match, expect=events, posture=Posture.Reactive, threshold=1)


def apply(kinds: Iterable[str]) -> list[str]:
    """Make the block and an automation for each kind, or change those that are there; what was done, in words.

    Automations of kinds that are no longer wanted are deleted. Without an address nothing is changed.

    Raises:
        ConfigError: the address is none.
    """
    url = os.environ.get(URL, "")
    if not url:
        return [f"notifications: none, because {URL} is not set; set it and run this again"]
    if urlsplit(url).scheme not in ("http", "https") or not urlsplit(url).netloc:
        raise ConfigError(
            f"{URL} is no address of the form http(s)://HOST/…; its value is not shown, it may be a secret"
        )
    block = _block(url, os.environ.get(TOKEN, ""))
    from prefect import get_client
    from prefect.automations import AutomationCore
    from prefect.events.actions import CallWebhook

    wanted, done = list(kinds), []
    with get_client(sync_client=True) as client:
        known = {a.name: a for a in client.read_automations() if a.name.startswith(PREFIX)}
        for kind in wanted:
            made = AutomationCore(
                name=PREFIX + kind,
                description=f"Calls the webhook when {KINDS[kind][0]}",
                trigger=trigger(kind),
                actions=[CallWebhook(block_document_id=block, payload=payload(kind))],
            )
            if old := known.pop(made.name, None):
                made.enabled = old.enabled  # people may have switched it off
                client.update_automation(old.id, made)
            else:
                client.create_automation(made)
        for old in known.values():
            client.delete_automation(old.id)
    done.append(f"notifications: {', '.join(wanted) or 'none'}, to the webhook of {URL}")
    return done


def _block(url: str, token: str) -> UUID:
    from prefect.blocks.webhook import Webhook
    from pydantic import SecretStr

    headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {token}"} if token else {})
    hook = Webhook(method="POST", url=SecretStr(url), headers=headers)  # type: ignore[arg-type]
    return hook.save(BLOCK, overwrite=True)  # type: ignore[return-value]
