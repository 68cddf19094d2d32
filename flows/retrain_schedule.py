"""When a schedule is due: a missed time is caught up once, however many were missed.

`<store>/_retrain/schedule.json` keeps the last time that was served, for each schedule. Prefect may start one run for
every time that it missed: the first serves the newest, the others find it served.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime
from pathlib import Path
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from stepvideo import storage
from stepvideo.artifact import Store
from stepvideo.errors import ConfigError

FILE = "_retrain/schedule.json"
FORM = "give five fields (minute hour day month weekday); '0 3 * * 1' is Mondays at 03:00"


def newest_slot(cron: str, timezone: str = "UTC", now: float | None = None) -> float:
    """The last time at or before `now` that a schedule names, in seconds since 1970.

    Raises:
        ConfigError: no cron expression, or an unknown time zone.
    """
    return _slot(cron, timezone, now, reverse=True)


def next_slot(cron: str, timezone: str = "UTC", now: float | None = None) -> float:
    """The first time after `now`. Raises ConfigError as `newest_slot`."""
    return _slot(cron, timezone, now, reverse=False)


def _slot(cron: str, timezone: str, now: float | None, reverse: bool) -> float:
    from cronsim import CronSim, CronSimError

    try:
        zone = UTC if timezone == "UTC" else ZoneInfo(timezone)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise ConfigError(f"timezone {timezone!r} is unknown; give a name such as Europe/Berlin or UTC") from None
    if len(cron.split()) != 5:
        raise ConfigError(f"cron {cron!r} has {len(cron.split())} fields; {FORM}")
    try:
        moment = datetime.fromtimestamp(time.time() if now is None else now, zone)
        if reverse:  # strictly before: the slot itself counts from its first second on
            moment = datetime.fromtimestamp(moment.timestamp() + 1, zone).replace(microsecond=0)
        return next(CronSim(cron, moment, reverse=reverse)).timestamp()
    except CronSimError as e:
        raise ConfigError(f"cron {cron!r}: {e}; {FORM}") from None
    except StopIteration:
        raise ConfigError(f"cron {cron!r} names no time at all") from None


def due(store: Store, cron: str, timezone: str = "UTC", now: float | None = None) -> float | None:
    """The slot that is to be served now, or None. A schedule that was never served is due."""
    slot = newest_slot(cron, timezone, now)
    last = _served(store).get(_name(cron, timezone))
    return slot if last is None or slot > last else None


def serve(store: Store, cron: str, timezone: str, slot: float) -> None:
    """Note that a slot, and all before it, have had their run."""
    storage.write_json(store.root / FILE, _served(store) | {_name(cron, timezone): slot})


def _served(store: Store) -> dict[str, float]:
    path = Path(store.root / FILE)
    return storage.read_json(path) if path.exists() else {}


def _name(cron: str, timezone: str) -> str:
    return f"{' '.join(cron.split())} {timezone}"


def said(slot: float, timezone: str = "UTC") -> str:
    """ "2026-11-22 03:00 UTC" """
    zone = UTC if timezone == "UTC" else ZoneInfo(timezone)
    return datetime.fromtimestamp(slot, zone).strftime("%Y-%m-%d %H:%M ") + timezone
