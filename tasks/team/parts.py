"""The services of a stack, in the order in which they need one another."""

from __future__ import annotations

from collections.abc import Sequence

from stepvideo.errors import ConfigError
from tasks.team import mlflow_server, postgresql, prefect_parts, python_packages, s3
from tasks.team.layout import Stack
from tasks.team.processes import Part

NAMES = ("postgresql", "s3-monitor", "s3-store", "s3", "mlflow", "prefect", "worker")
NEEDS = {  # of this machine
    "postgresql": postgresql.missing,
    "s3-monitor": s3.missing,
    "s3-store": s3.missing,
    "s3": s3.missing,
    "mlflow": python_packages.missing,
}


def missing(names: Sequence[str] = NAMES) -> list[str]:
    """What this machine lacks for these services, each with the command that brings it."""
    checks = dict.fromkeys(NEEDS[name] for name in names if name in NEEDS)
    return [said for check in checks if (said := check())]


def need(names: Sequence[str]) -> None:
    """Raises ConfigError if something is missing for these services, all of it in one message."""
    if lacking := missing(names):
        raise ConfigError("a team stack needs more on this machine:\n  " + "\n  ".join(lacking))


def all_parts(stack: Stack, store: str | None = None) -> list[Part]:
    """Every service, whether it could be started here or not."""
    made = [
        postgresql.part(stack),
        *s3.parts(stack),
        mlflow_server.part(stack),
        *prefect_parts.parts(stack, store),
    ]
    assert tuple(p.name for p in made) == NAMES
    return made
