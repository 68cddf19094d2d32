"""A deployment of prefect.yaml held against its flow, before a server is told of anything."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any

from flows.compose import near
from flows.deployments_file import Deployment
from stepvideo.errors import ConfigError


@dataclass(frozen=True)
class Ready:
    """A deployment that can be registered.

    Attributes:
        name: FLOW/NAME. flow: the Prefect flow. schema: JSON Schema of its parameters. triggers: as Prefect has them.
    """

    name: str
    asked: Deployment
    flow: Any
    schema: dict[str, Any]
    triggers: list[Any]


def ready(d: Deployment) -> Ready:
    """Raises ConfigError: an entrypoint that is no flow, parameters that it does not take, a trigger that is none."""
    flow = flow_of(d.entrypoint)
    name = f"{flow.name}/{d.name}"
    schema = check_parameters(flow, d.parameters, f"deployment {name}")
    for s in d.schedules:
        check_parameters(flow, s.parameters, f"deployment {name}, schedule {s.slug}")
    return Ready(name, d, flow, schema, [_trigger(given, name, i) for i, given in enumerate(d.triggers, start=1)])


def _trigger(given: Any, name: str, number: int) -> Any:
    from prefect.events import DeploymentTriggerTypes
    from pydantic import TypeAdapter, ValidationError

    where = f"deployment {name}, trigger {number}"
    try:
        made = TypeAdapter(DeploymentTriggerTypes).validate_python({"name": where, **given})
    except (ValidationError, TypeError) as e:
        raise ConfigError(f"{where}: {e}") from e
    known = type(made).model_fields
    if unknown := [key for key in given if key not in known]:
        raise ConfigError(f"{where}: unknown key {unknown[0]}{near(unknown[0], known)}")
    return made


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
