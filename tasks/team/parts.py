"""The services of a stack, in the order in which they need one another."""

from __future__ import annotations

from stepvideo.errors import ConfigError
from tasks.team import mlflow_server, postgresql, prefect_parts, python_packages, s3
from tasks.team.layout import Stack
from tasks.team.processes import Part

NAMES = ("postgresql", "s3-monitor", "s3-store", "s3", "mlflow", "prefect", "worker")


def missing() -> list[str]:
    """What this machine lacks for a stack, each with the command that brings it."""
    return [said for said in (postgresql.missing(), s3.missing(), python_packages.missing()) if said]


def all_parts(stack: Stack, store: str | None = None) -> list[Part]:
    """Every service. Raises ConfigError if Debian packages are missing, all of them in one message."""
    if lacking := missing():
        raise ConfigError("a team stack needs more on this machine:\n  " + "\n  ".join(lacking))
    made = [
        postgresql.part(stack),
        *s3.parts(stack),
        mlflow_server.part(stack),
        *prefect_parts.parts(stack, store),
    ]
    assert tuple(p.name for p in made) == NAMES
    return made
