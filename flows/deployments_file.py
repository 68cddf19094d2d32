"""`prefect.yaml`: the one place that says what a Prefect server is told, also read by `prefect deploy`.

Beside the sections of Prefect it has `pools`, `partitions` and `notifications`, which `prefect deploy` skips.
"""

from __future__ import annotations

import zoneinfo
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from flows.compose import ROOT, near
from stepvideo.config import load
from stepvideo.errors import ConfigError

FILE = ROOT / "prefect.yaml"
STRATEGIES = ("ENQUEUE", "CANCEL_NEW")
CRON = 'write five fields, minute hour day month weekday, such as "0 2 * * *" (02:00 every day)'


@dataclass
class Schedule:
    """When a deployment runs by itself. `active` holds when it is made; later it is what people switched it to."""

    slug: str
    cron: str
    timezone: str = "UTC"
    active: bool = False
    parameters: dict[str, Any] = field(default_factory=dict)


@dataclass
class Limit:
    """So many runs of a deployment at a time; ENQUEUE lets a further one wait, CANCEL_NEW drops it."""

    limit: int = 1
    collision_strategy: str = "ENQUEUE"


@dataclass
class Pool:
    """A work pool, by name."""

    name: str = "stepvideo"


@dataclass
class Deployment:
    """One deployment of a flow: `entrypoint` is FILE:FUNCTION from the root of the repository."""

    name: str
    entrypoint: str
    description: str = ""
    tags: list[str] = field(default_factory=list)
    parameters: dict[str, Any] = field(default_factory=dict)
    work_pool: Pool = field(default_factory=Pool)
    concurrency_limit: Limit = field(default_factory=Limit)
    schedules: list[Schedule] = field(default_factory=list)
    triggers: list[Any] = field(default_factory=list)  # as Prefect has them: automations that run it at an event


@dataclass
class Wanted:
    """The whole file."""

    name: str = "stepvideo"
    pools: dict[str, str] = field(default_factory=lambda: {"stepvideo": "process"})  # name: type
    partitions: dict[str, int] = field(default_factory=dict)  # of Slurm: stages there at a time, in all runs
    notifications: list[str] = field(default_factory=list)  # names of flows/notify.py
    deployments: list[Deployment] = field(default_factory=list)


def read(path: Path = FILE) -> Wanted:
    """The file, checked.

    Raises:
        ConfigError: names the file, the deployment, the key, the value and the fix.
    """
    import yaml

    try:
        given = yaml.safe_load(path.read_text("utf-8"))
    except (OSError, yaml.YAMLError) as e:
        raise ConfigError(f"{path} cannot be read as YAML: {e}") from e
    if not isinstance(given, Mapping):
        raise ConfigError(f"{path} holds no sections; it needs `deployments`")
    given = {k: v for k, v in given.items() if k != "definitions"}  # anchors for the rest
    rows = given.pop("deployments", None) or []
    wanted = load(Wanted, given, str(path))
    for row in rows:
        where = f"{path}, deployment {row.get('name', '?') if isinstance(row, Mapping) else row}"
        if not isinstance(row, Mapping) or not isinstance(row.get("schedules", []), list):
            raise ConfigError(f"{where}: give name, entrypoint and, if any, a list of schedules")
        made = load(Deployment, {k: v for k, v in row.items() if k != "schedules"}, where)
        for each in row.get("schedules", []):
            slug = each.get("slug", "?") if isinstance(each, Mapping) else each
            made.schedules.append(load(Schedule, each, f"{where}, schedule {slug}"))
        wanted.deployments.append(made)
    check(wanted, str(path))
    return wanted


def check(wanted: Wanted, where: str) -> None:
    """What types do not say. Raises ConfigError."""
    from flows.notify import KINDS

    for name in wanted.notifications:
        if name not in KINDS:
            raise ConfigError(f"{where}: notifications: {name!r} is none{near(name, KINDS)}")
    for name, slots in wanted.partitions.items():
        if slots < 1:
            raise ConfigError(f"{where}: partitions.{name} is {slots}; give 1 or more, or leave the partition out")
    seen: set[tuple[str, str]] = set()
    for d in wanted.deployments:
        here = f"{where}, deployment {d.name}"
        file, _, function = d.entrypoint.partition(":")
        if not (ROOT / file).is_file() or not function:
            raise ConfigError(f"{here}: entrypoint {d.entrypoint!r} is no FILE:FUNCTION of {ROOT}")
        if (d.entrypoint, d.name) in seen:
            raise ConfigError(f"{here}: there are two of {d.entrypoint} under this name; rename one")
        seen.add((d.entrypoint, d.name))
        if d.work_pool.name not in wanted.pools:
            raise ConfigError(f"{here}: work_pool {d.work_pool.name!r} is none{near(d.work_pool.name, wanted.pools)}")
        how = d.concurrency_limit
        if how.limit < 1 or how.collision_strategy not in STRATEGIES:
            said = f"{how.limit}, {how.collision_strategy}"
            raise ConfigError(f"{here}: concurrency_limit is {said}; give 1 or more and one of {', '.join(STRATEGIES)}")
        slugs = [s.slug for s in d.schedules]
        for s in d.schedules:
            if slugs.count(s.slug) > 1:
                raise ConfigError(f"{here}: two schedules are called {s.slug!r}; give each a slug of its own")
            check_schedule(s, f"{here}, schedule {s.slug}")


def check_schedule(schedule: Schedule, where: str) -> None:
    """A cron that means something, in a time zone that exists. Raises ConfigError."""
    from prefect._vendor.croniter import CroniterBadDateError, croniter
    from prefect.client.schemas.schedules import CronSchedule

    said = f"{where}: cron {schedule.cron!r}"
    if schedule.timezone not in zoneinfo.available_timezones():
        raise ConfigError(f"{where}: timezone {schedule.timezone!r} is unknown; give one such as UTC or Asia/Shanghai")
    if len(schedule.cron.split()) != 5:
        raise ConfigError(f"{said} has {len(schedule.cron.split())} fields; {CRON}")
    try:
        CronSchedule(cron=schedule.cron)
        croniter(schedule.cron, datetime.now(UTC)).get_next()
    except CroniterBadDateError as e:
        raise ConfigError(f"{said} never comes; {CRON}") from e
    except ValueError as e:
        raise ConfigError(f"{said} is no schedule; {CRON}") from e
