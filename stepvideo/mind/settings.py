"""StepMind's folder on the shared file system, and its settings there.

FOLDER/mind.json       what may be set; absent: the defaults
FOLDER/nodes/NODE.json records (`nodes.Book`)
FOLDER/checks/NODE.json, stress/NODE.json, prints/NODE.json    what a node last reported of itself
FOLDER/breaker.json    the circuit breaker
FOLDER/expectations.json    what stress tests are held against
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar

from stepvideo.errors import ConfigError
from stepvideo.mind.breaker import Breaker, Limits
from stepvideo.mind.checks.host import Expected
from stepvideo.mind.nodes import Book, locked
from stepvideo.mind.pool import Pool
from stepvideo.mind.repair import Policy
from stepvideo.mind.score import Scoring
from stepvideo.mind.shift import Shift
from stepvideo.storage import read_json, write_json

VARIABLE = "STEPVIDEO_MIND"
T = TypeVar("T")


@dataclass(frozen=True)
class Settings:
    """`mind.json`.

    Attributes:
        buffer: the partition of nodes that wait.
        expected: what nodes have (`checks.host.Expected`).
        stress: the profile of tests before admission.
        shift: how nodes move between inference and training (`shift.Shift`); None: they stay.
        alike: beginnings of the keys in which a node that comes back must be as most are (`uniform.fingerprint`).
    """

    buffer: str = "buffer"
    pools: tuple[Pool, ...] = ()
    policy: Policy = Policy()
    limits: Limits = Limits()
    scoring: Scoring = Scoring()
    expected: Mapping[str, Any] = field(default_factory=dict)
    stress: str = "short"
    shift: Shift | None = None
    alike: tuple[str, ...] = ("kernel", "driver", "gpus", "gpu ", "port ", "package torch")

    @classmethod
    def of_json(cls, data: Mapping[str, Any]) -> Settings:
        """Raises ConfigError: an unknown key, or a value that cannot be."""
        given = dict(data)
        for name, kind in (("policy", Policy), ("limits", Limits), ("scoring", Scoring), ("shift", Shift)):
            if name in given:
                given[name] = _made(kind, given[name], name)
        if "pools" in given:
            given["pools"] = tuple(_made(Pool, p, "pools") for p in given["pools"])
        if "alike" in given:
            given["alike"] = tuple(given["alike"])
        Expected.of_json(given.get("expected", {}), "")
        return _made(cls, given, "mind.json")


def _made(kind: type[T], given: Mapping[str, Any], where: str) -> T:
    known = [f.name for f in fields(kind)]  # type: ignore[arg-type]
    if unknown := sorted(set(given) - set(known)):
        raise ConfigError(f"{where}: no such key: {', '.join(unknown)}; known: {', '.join(known)}")
    try:
        return kind(**given)
    except (TypeError, ValueError) as e:
        raise ConfigError(f"{where}: {e}") from e


class Folder:
    """Where all nodes find what concerns them."""

    def __init__(self, root: Path) -> None:
        self.root = Path(root)
        self.book = Book(self.root / "nodes")

    @classmethod
    def asked(cls, given: str | None) -> Folder:
        """The one that a command was given, or $STEPVIDEO_MIND.

        Raises:
            ConfigError: neither.
        """
        if not (path := given or os.environ.get(VARIABLE)):
            raise ConfigError(f"which folder? Give --folder or {VARIABLE}: one on a file system that all nodes share")
        return cls(Path(path))

    def settings(self) -> Settings:
        path = self.root / "mind.json"
        return Settings.of_json(read_json(path)) if path.exists() else Settings()

    def report(self, kind: str, node: str) -> dict[str, Any]:
        """What a node last said; {} if it never did. kind: checks, stress, prints."""
        path = self.root / kind / f"{node}.json"
        return read_json(path) if path.exists() else {}

    def age(self, kind: str, node: str) -> float:
        """Seconds since it was written, by two clocks that may differ; inf if it never was."""
        path = self.root / kind / f"{node}.json"
        return time.time() - path.stat().st_mtime if path.exists() else float("inf")

    def prints(self) -> dict[str, dict[str, str]]:
        """Fingerprint of every node that gave one."""
        return {p.stem: read_json(p) for p in sorted((self.root / "prints").glob("*.json"))}

    def write_report(self, kind: str, node: str, said: Mapping[str, Any]) -> None:
        write_json(self.root / kind / f"{node}.json", said)

    def breaker(self) -> Breaker:
        path = self.root / "breaker.json"
        return Breaker.of_json(read_json(path)) if path.exists() else Breaker()

    def ask_breaker(self, now: float, node: str, cause: str, fleet: int, out: int, limits: Limits) -> bool:
        """`Breaker.ask`, with no other writer between."""
        with locked(self.root / ".breaker.lock"):
            before = self.breaker()
            after, allowed = before.ask(now, node, cause, fleet, out, limits)
            if after != before:
                write_json(self.root / "breaker.json", after.json())
        return allowed

    def close_breaker(self) -> Breaker:
        """By a person; gives what it was."""
        with locked(self.root / ".breaker.lock"):
            before = self.breaker()
            write_json(self.root / "breaker.json", before.closed().json())
        return before
