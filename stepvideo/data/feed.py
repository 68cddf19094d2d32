"""The folder in which training jobs say what they want next, and producers who makes it: small files, written whole.

    wishes/JOB.RANK.json     a rank of a job: where it is, how far ahead it takes, what it has of that
    producers/NAME.json      a producer: what it has done so far
    claims/STEP.PACK.PLAN    one unit of work of a plan, and in it the name of who makes it
    failed.json              why nothing will come
    pipes/                   the registry of the pipes that carry the tensors

A unit (step, pack) is all samples of one pack of a step's plan (`balance.Plan`), which is known before the run begins.
Claims only save work: two producers that make the same unit send the same bytes, and the second copy is dropped.

Nobody compares clocks of two machines: whoever is alive renews its file within `lease_s` of the looker's own time.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
import uuid
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

Unit = tuple[int, int]  # step, pack


@dataclass
class Wish:
    """What one rank of a job wants. `life` changes when what it had is lost; `plan` is the digest of its plan."""

    job: str
    rank: int
    ranks: int
    life: str
    plan: str
    packs: int  # of a step
    steps: int  # of the run
    ahead: int
    position: int = 0  # the watermark: every sample of earlier steps was used
    have: list[Unit] = field(default_factory=list)
    waited_s: float = 0.0  # that training stood still for samples, of `elapsed_s`
    elapsed_s: float = 0.0
    received: int = 0
    duplicates: int = 0  # received again, or no longer wanted

    @property
    def name(self) -> str:
        return f"{self.job}.{self.rank}"

    @property
    def receiver(self) -> str:
        """Who received what was sent: a new life has lost it."""
        return f"{self.name}.{self.life}"

    def units(self) -> list[Unit]:
        """What it wants now, the most urgent first."""
        have, last = set(self.have), min(self.position + self.ahead, self.steps)
        mine = range(self.rank, self.packs, self.ranks)
        return [u for step in range(self.position, last) for p in mine if (u := (step, p)) not in have]


class Feed:
    """One folder of this kind, as one process sees it.

    Args:
        plan: whose units are claimed; jobs of other plans may use the same folder.
        make: if it is not there. Producers do not: that of a stage that ended while they started would come back.

    Raises:
        OSError: it cannot be made.
    """

    def __init__(self, folder: Path, lease_s: float, plan: str = "", make: bool = True) -> None:
        self.folder, self._plan, self._alive = folder, plan, _Alive(lease_s)
        self._owners: dict[Unit, str] = {}
        self._said: dict[Path, tuple[tuple[int, int, int], dict[str, Any]]] = {}  # read before: which file, its content
        for part in ("wishes", "producers", "claims", "pipes") if make else ():
            (folder / part).mkdir(parents=True, exist_ok=True)

    @property
    def pipes(self) -> Path:
        return self.folder / "pipes"

    @property
    def gone(self) -> bool:
        """The stage has ended and its folder was removed."""
        return not (self.folder / "wishes").is_dir()

    # ------------------------------------------------------------------------------------------------------------ jobs

    def wish(self, wish: Wish) -> None:
        _write(self.folder / "wishes" / f"{wish.name}.json", asdict(wish))

    def leave(self, wish: Wish) -> None:
        (self.folder / "wishes" / f"{wish.name}.json").unlink(missing_ok=True)

    def wishes(self) -> list[Wish]:
        """Of the ranks that live."""
        return [Wish(**{**said, "have": [tuple(u) for u in said["have"]]}) for said in self._living("wishes").values()]

    # ------------------------------------------------------------------------------------------------------- producers

    def fail(self, reason: str) -> None:
        """Nothing will come, and why: training need not wait. Empty: it may come after all."""
        path = self.folder / "failed.json"
        if reason:
            _write(path, {"reason": reason})
        else:
            path.unlink(missing_ok=True)

    def failure(self) -> str:
        """The reason that somebody gave, or ""."""
        try:
            return json.loads((self.folder / "failed.json").read_text())["reason"]
        except (OSError, ValueError, KeyError):
            return ""

    def beat(self, name: str, about: dict[str, Any]) -> None:
        _write(self.folder / "producers" / f"{name}.json", about)

    def producers(self) -> dict[str, dict[str, Any]]:
        """What those that live last said."""
        return self._living("producers")

    def claim(self, unit: Unit, name: str) -> bool:
        """Whether this producer is to make the unit: it has claimed it, or a dead one had."""
        path = self._claim(unit)
        for _ in range(2):
            owner = self.owner(unit)
            if owner == name:
                return True
            if owner and self._alive(self.folder / "producers" / f"{owner}.json"):
                return False
            with contextlib.suppress(FileNotFoundError):
                if owner:
                    path.unlink()
            self._owners.pop(unit, None)
            with contextlib.suppress(FileExistsError):
                _link_new(path, name)
                self._owners[unit] = name
                return True
        return False

    def owner(self, unit: Unit) -> str:
        """Who claimed it, or "". A known owner that lives is not asked for again."""
        known = self._owners.get(unit, "")
        if known and self._alive(self.folder / "producers" / f"{known}.json"):
            return known
        try:
            self._owners[unit] = self._claim(unit).read_text()
        except FileNotFoundError:
            self._owners.pop(unit, None)
        return self._owners.get(unit, "")

    def forget(self, below: int) -> None:
        """Claims of steps before `below`, which nobody wants any more."""
        with contextlib.suppress(FileNotFoundError):
            for entry in os.scandir(self.folder / "claims"):
                step = entry.name.partition(".")[0]
                if step.isdecimal() and int(step) < below and entry.name.endswith(f".{self._plan}"):
                    Path(entry.path).unlink(missing_ok=True)
        self._owners = {u: who for u, who in self._owners.items() if u[0] >= below}

    def _claim(self, unit: Unit) -> Path:
        return self.folder / "claims" / f"{unit[0]:08d}.{unit[1]:05d}.{self._plan}"

    def _living(self, part: str) -> dict[str, dict[str, Any]]:
        found = {}
        for path in sorted((self.folder / part).glob("[!.]*.json")):
            if self._alive(path):
                with contextlib.suppress(OSError, ValueError):
                    found[path.stem] = self._read(path)
        return found

    def _read(self, path: Path) -> dict[str, Any]:
        """Its content; a file that is the one of the last look is not opened: producers look many times a second."""
        stat = path.stat()
        same = stat.st_ino, stat.st_mtime_ns, stat.st_size
        if path not in self._said or self._said[path][0] != same:
            self._said[path] = same, json.loads(path.read_text())
        return self._said[path][1]


class _Alive:
    """A file's writer lives if the file has changed within the last `lease_s` seconds of this process's own clock."""

    def __init__(self, lease_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.lease_s, self._clock = lease_s, clock
        self._seen: dict[Path, tuple[int, float]] = {}

    def __call__(self, path: Path) -> bool:
        try:
            changed = path.stat().st_mtime_ns
        except OSError:
            self._seen.pop(path, None)
            return False
        now = self._clock()
        before, since = self._seen.get(path, (0, now))
        if changed != before:
            since = now
        self._seen[path] = (changed, since)
        return now - since <= self.lease_s


def _write(path: Path, obj: dict[str, Any]) -> None:
    """Whole or not at all; not to disk at once, as nothing here outlives its writer. A folder that is gone stays so."""
    tmp = path.with_name(f".{path.name}.{os.getpid()}")
    with contextlib.suppress(FileNotFoundError):
        tmp.write_text(json.dumps(obj))
        os.replace(tmp, path)


def _link_new(path: Path, text: str) -> None:
    """A file that did not exist, with its content from the first moment. Raises FileExistsError."""
    tmp = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
    tmp.write_text(text)
    try:
        os.link(tmp, path)
    finally:
        tmp.unlink()
