"""What `prefect.yaml` asks for, brought to a Prefect server: the same again changes nothing.

What people switched in the UI stays: a schedule that is there keeps its state, and so does a notification.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any
from uuid import UUID

from flows.compose import ROOT, near
from flows.deployments_check import Ready, ready
from flows.deployments_file import Schedule, Wanted, read
from stepvideo.errors import ConfigError, StepVideoError


def apply(wanted: Wanted, pool: str = "", pool_type: str = "", on: Sequence[str] = ()) -> list[dict[str, Any]]:
    """Pools, limits of partitions, deployments with schedules and triggers; one row a deployment.

    Args:
        pool: where all deployments go instead of their own pools. pool_type: its type, if it is new.
        on: deployments, FLOW/NAME, whose schedules and triggers are switched on.

    Raises:
        ConfigError: no server, an unknown deployment or entrypoint, parameters that a flow does not take.
        StepVideoError: the server does not answer, or refuses.
    """
    import httpx
    from prefect import get_client

    needs_server()
    known = {r.name: r for r in map(ready, wanted.deployments)}
    if unknown := [name for name in on if name not in known]:
        raise ConfigError(f"there is no deployment {unknown[0]}{near(unknown[0], known)}")
    try:
        with get_client(sync_client=True) as client:
            types = {pool: pool_type or wanted.pools.get(pool, "process")} if pool else wanted.pools
            for name, kind in types.items():
                _pool(client, name, kind)
            for partition, slots in wanted.partitions.items():
                from flows.slots import limit_of

                client.upsert_global_concurrency_limit_by_name(limit_of(partition), slots)
            return [_deploy(client, r, pool or r.asked.work_pool.name, r.name in on) for r in known.values()]
    except httpx.HTTPStatusError as e:
        raise StepVideoError(f"the Prefect server at {_server()} refuses: {e.response.text.strip()[:500]}") from e
    except httpx.HTTPError as e:
        raise StepVideoError(
            f"no Prefect server answers at {_server()} ({e}); start it, or mend PREFECT_API_URL"
        ) from e


def needs_server() -> None:
    if not os.environ.get("PREFECT_API_URL"):
        raise ConfigError("this needs a Prefect server that stays: `make ui`, then export PREFECT_API_URL=…/api")


def _server() -> str:
    """Without a user and password that may be in it."""
    return os.environ["PREFECT_API_URL"].rpartition("@")[2]


def _pool(client: Any, name: str, kind: str) -> None:
    from prefect.client.schemas.actions import WorkPoolCreate
    from prefect.exceptions import ObjectAlreadyExists
    from prefect.workers.base import BaseWorker

    known = BaseWorker.get_all_available_worker_types()
    if kind not in known:
        raise ConfigError(f"work pool {name}: type {kind!r} is not installed; there are {', '.join(sorted(known))}")
    try:
        client.create_work_pool(WorkPoolCreate(name=name, type=kind))
    except ObjectAlreadyExists:
        there = client.read_work_pool(name).type
        if there != kind:
            raise ConfigError(
                f"work pool {name} is there and of type {there!r}, not {kind!r}; choose another name"
            ) from None


def _deploy(client: Any, r: Ready, pool: str, on: bool) -> dict[str, Any]:
    from prefect.client.schemas.objects import ConcurrencyOptions
    from prefect.exceptions import ObjectNotFound

    d = r.asked
    try:
        before = {s.slug: s.active for s in client.read_deployment_by_name(r.name).schedules}
    except ObjectNotFound:
        before = {}
    schedules = [_schedule(s, on or before.get(s.slug, s.active)) for s in d.schedules]
    made: UUID = client.create_deployment(
        client.create_flow(r.flow),
        d.name,
        description=d.description or (r.flow.description or ""),
        tags=d.tags,
        parameters=d.parameters,
        parameter_openapi_schema=r.schema,
        enforce_parameter_schema=True,
        entrypoint=d.entrypoint,
        path=str(ROOT),
        pull_steps=[{"prefect.deployments.steps.set_working_directory": {"directory": str(ROOT)}}],
        work_pool_name=pool,
        concurrency_limit=d.concurrency_limit.limit,
        concurrency_options=ConcurrencyOptions.model_validate(
            {"collision_strategy": d.concurrency_limit.collision_strategy}
        ),
        schedules=schedules,
    )
    triggers = _triggers(client, r, made, on)
    rows = [{**asdict(s), "active": c.active} for s, c in zip(d.schedules, schedules, strict=True)]
    return {"deployment": r.name, "id": str(made), "pool": pool, "schedules": rows, "triggers": triggers}


def _schedule(s: Schedule, active: bool) -> Any:
    from prefect.client.schemas.actions import DeploymentScheduleCreate
    from prefect.client.schemas.schedules import CronSchedule

    when = CronSchedule(cron=s.cron, timezone=s.timezone)
    return DeploymentScheduleCreate(schedule=when, active=active, slug=s.slug, parameters=s.parameters)


def _triggers(client: Any, r: Ready, deployment: UUID, on: bool) -> dict[str, bool]:
    """Automations that run the deployment at an event: the server keeps them as the deployment's own.

    Returns:
        {name: whether it is switched on}.
    """
    from prefect.automations import AutomationCore

    owner = f"prefect.deployment.{deployment}"
    there = {a.name: a for a in client.read_resource_related_automations(owner) if a.owner_resource == owner}
    made = {}
    for each in r.triggers:
        each.set_deployment_id(deployment)
        automation = each.as_automation()
        if old := there.pop(automation.name, None):
            automation.enabled = on or old.enabled
            client.update_automation(old.id, AutomationCore(**automation.model_dump(exclude={"owner_resource"})))
        else:
            automation.enabled = on or automation.enabled
            client.create_automation(automation)
        made[automation.name] = automation.enabled
    for old in there.values():
        client.delete_automation(old.id)
    return made


def deploy_command(file: str | None, pool: str, pool_type: str, on: Sequence[str], as_json: bool) -> int:
    """Register everything; prints what there is now and what to do next."""
    import json
    from pathlib import Path

    from flows import notify

    needs_server()
    wanted = read(Path(file)) if file else read()
    rows = apply(wanted, pool, pool_type, on)
    said = notify.apply(wanted.notifications)
    if as_json:
        print(json.dumps({"deployments": rows, "notes": said}, indent=1))
        return 0
    for row in rows:
        print(f"{row['deployment']} in pool {row['pool']}")
        for s in row["schedules"]:
            print(f"  {s['slug']}: {s['cron']} {s['timezone']}, {'on' if s['active'] else 'off'}")
        for name, enabled in row["triggers"].items():
            print(f"  {name}: {'on' if enabled else 'off'}")
    print("\n".join(said))
    first = rows[0]["deployment"] if rows else "FLOW/NAME"
    name = pool or (rows[0]["pool"] if rows else "stepvideo")
    print(f"next: stepvideo worker --pool {name} | prefect deployment run '{first}' | stepvideo deploy --on '{first}'")
    return 0
