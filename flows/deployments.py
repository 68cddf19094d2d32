"""What `prefect.yaml` asks for, brought to a Prefect server: the same again changes nothing.

What people switched in the UI stays: a schedule that is there keeps its state, and so does a notification.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any
from uuid import UUID

from flows.compose import ROOT, near
from flows.deployments_file import Deployment, Schedule, Wanted, read
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
    try:
        with get_client(sync_client=True) as client:
            types = {pool: pool_type or wanted.pools.get(pool, "process")} if pool else wanted.pools
            for name, kind in types.items():
                _pool(client, name, kind)
            for partition, slots in wanted.partitions.items():
                from flows.slots import limit_of

                client.upsert_global_concurrency_limit_by_name(limit_of(partition), slots)
            full = {f"{flow_of(d.entrypoint).name}/{d.name}": d for d in wanted.deployments}
            if unknown := [name for name in on if name not in full]:
                raise ConfigError(f"there is no deployment {unknown[0]}{near(unknown[0], full)}")
            return [_deploy(client, d, pool or d.work_pool.name, name in on) for name, d in full.items()]
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


def flow_of(entrypoint: str) -> Any:
    """The flow that an entrypoint names. Raises ConfigError."""
    from prefect import Flow

    file, _, function = entrypoint.partition(":")
    try:
        found = getattr(importlib.import_module(file.removesuffix(".py").replace("/", ".")), function)
    except (ImportError, AttributeError) as e:
        raise ConfigError(f"entrypoint {entrypoint}: {e}") from e
    if not isinstance(found, Flow):
        raise ConfigError(f"entrypoint {entrypoint}: {function} is no Prefect flow")
    return found


def check_parameters(flow: Any, parameters: dict[str, Any], where: str) -> dict[str, Any]:
    """The flow's JSON Schema, after parameters were held against it; those that a run must give may be absent.

    Raises:
        ConfigError: an unknown parameter, or a value that the flow does not take.
    """
    import jsonschema
    from prefect.utilities.callables import parameter_schema

    schema = parameter_schema(flow).model_dump_for_openapi()
    for name in parameters:
        if name not in schema["properties"]:
            raise ConfigError(
                f"{where}: {flow.name} has no parameter {name!r}; it has {', '.join(schema['properties'])}"
            )
    try:
        jsonschema.validate(parameters, {k: v for k, v in schema.items() if k != "required"})
    except jsonschema.ValidationError as e:
        said = f"{e.instance!r} is no setting; write key=value" if e.validator == "pattern" else e.message
        raise ConfigError(f"{where}: parameter {'.'.join(map(str, e.absolute_path))}: {said}") from e
    return {**schema, "additionalProperties": False}


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


def _deploy(client: Any, d: Deployment, pool: str, on: bool) -> dict[str, Any]:
    from prefect.client.schemas.objects import ConcurrencyOptions
    from prefect.exceptions import ObjectNotFound

    flow = flow_of(d.entrypoint)
    full = f"{flow.name}/{d.name}"
    schema = check_parameters(flow, d.parameters, f"deployment {full}")
    for s in d.schedules:
        check_parameters(flow, s.parameters, f"deployment {full}, schedule {s.slug}")
    try:
        before = {s.slug: s.active for s in client.read_deployment_by_name(full).schedules}
    except ObjectNotFound:
        before = {}
    schedules = [_schedule(s, on or before.get(s.slug, s.active)) for s in d.schedules]
    made: UUID = client.create_deployment(
        client.create_flow(flow),
        d.name,
        description=d.description or (flow.description or ""),
        tags=d.tags,
        parameters=d.parameters,
        parameter_openapi_schema=schema,
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
    triggers = _triggers(client, d, full, made, on)
    rows = [{**asdict(s), "active": c.active} for s, c in zip(d.schedules, schedules, strict=True)]
    return {"deployment": full, "id": str(made), "pool": pool, "schedules": rows, "triggers": triggers}


def _schedule(s: Schedule, active: bool) -> Any:
    from prefect.client.schemas.actions import DeploymentScheduleCreate
    from prefect.client.schemas.schedules import CronSchedule

    when = CronSchedule(cron=s.cron, timezone=s.timezone)
    return DeploymentScheduleCreate(schedule=when, active=active, slug=s.slug, parameters=s.parameters)


def _triggers(client: Any, d: Deployment, full: str, deployment: UUID, on: bool) -> dict[str, bool]:
    """Automations that run the deployment at an event: the server keeps them as the deployment's own.

    Returns:
        {name: whether it is switched on}.
    """
    from prefect.events import DeploymentTriggerTypes
    from pydantic import TypeAdapter, ValidationError

    owner, made = f"prefect.deployment.{deployment}", []
    before = {a.name: a.enabled for a in client.read_resource_related_automations(owner)}
    for i, given in enumerate(d.triggers, start=1):
        try:
            each = TypeAdapter(DeploymentTriggerTypes).validate_python({"name": f"{full}, trigger {i}", **given})
        except (ValidationError, TypeError) as e:
            raise ConfigError(f"deployment {full}, trigger {i}: {e}") from e
        each.set_deployment_id(deployment)
        each.enabled = on or before.get(each.name, each.enabled)
        made.append(each.as_automation())
    client.delete_resource_owned_automations(owner)
    for automation in made:
        client.create_automation(automation)
    return {automation.name: automation.enabled for automation in made}


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
