"""Settings side by side: only what differs, by dotted key."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from flows.comparison.subjects import Aligned, Subject

ABSENT = "(absent)"
PLACES = ("cluster", "runtime", "store", "tracking", "work", "data", "raw", "labels", "name", "register")
"""Where and how, not what: these change no result. (Paths of data do, by the content that lies there: see lineage.)"""


@dataclass(frozen=True)
class Setting:
    """A key with its value of every subject. `decides`: it can change a result."""

    key: str
    values: list[Any]
    decides: bool


@dataclass(frozen=True)
class Settings:
    differ: list[Setting]
    equal: int  # how many more there are


def settings(compared: Sequence[Subject], rows: Aligned) -> Settings:
    """Of runs what they were told; of artifacts their own config, if they are of one kind, and those behind them."""
    if all(s.record for s in compared):
        return differences([s.config for s in compared])
    if all(s.own for s in compared):
        alike = len({s.own.manifest["kind"] for s in compared if s.own}) == 1
        found = differences([s.config for s in compared]) if alike else Settings([], 0)
        behind = {n: r for n, r in rows.items() if not any(a is s.own for a, s in zip(r, compared))}
    else:
        found, behind = Settings([], 0), rows
    differ, equal = list(found.differ), found.equal
    for name, row in behind.items():
        if all(row):
            more = differences([{name: a.manifest["config"]} for a in row if a])
            differ += more.differ
            equal += more.equal
    return Settings(differ, equal)


def differences(configs: Sequence[Mapping[str, Any]]) -> Settings:
    """What differs. A stage's value that it has from the top of the config is told once, there."""
    flat = [dict(flatten(c)) for c in configs]
    keys = list(dict.fromkeys(k for c in flat for k in c))
    values = {k: [c.get(k, ABSENT) for c in flat] for k in keys}
    differ = {k: v for k, v in values.items() if any(x != v[0] for x in v)}
    shown = {k: v for k, v in differ.items() if not (k.startswith("stages.") and differ.get(k.split(".", 2)[-1]) == v)}
    return Settings([Setting(k, v, decides(k)) for k, v in shown.items()], len(values) - len(differ))


def decides(key: str) -> bool:
    parts = key.split(".")
    return parts[0] not in PLACES and "runtime" not in parts


def flatten(config: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    out: list[tuple[str, Any]] = []
    for k, v in config.items():
        out += flatten(v, f"{prefix}{k}.") if isinstance(v, Mapping) and v else [(f"{prefix}{k}", v)]
    return out
