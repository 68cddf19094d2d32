"""A registry in a folder that all nodes see: one file a member, rewritten every heartbeat.

Ages are differences of times that the file system gave, so clocks of nodes may differ: each process touches a file of
its own to learn what time the file system thinks it is.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
from pathlib import Path

from stepvideo.pipes.errors import PipeError
from stepvideo.pipes.member import Member, check_newest

FORGOTTEN = 30  # leases after which a silent member's file is removed


class FileRegistry:
    """The folder is made, readable by its owner only, if it is not there."""

    def __init__(self, folder: str | Path) -> None:
        self._folder = Path(folder)
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._clock = self._folder / f".clock-{os.getpid()}-{secrets.token_hex(4)}"

    def put(self, member: Member) -> None:
        path = self._path(member)
        check_newest(_read(path), member)
        tmp = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
        tmp.write_text(json.dumps(member.to_dict()), encoding="utf-8")  # not synced: it is written anew in a second
        os.replace(tmp, path)

    def drop(self, member: Member) -> None:
        path = self._path(member)
        known = _read(path)
        if known is not None and known.instance == member.instance:
            path.unlink(missing_ok=True)

    def members(self, pipe: str | None = None) -> list[Member]:
        now = self._now()
        found = []
        for path in self._folder.glob("*.json"):
            try:
                age, member = now - path.stat().st_mtime, _read(path)
            except OSError:
                continue  # just left
            if member is None or age > member.lease_s:
                if age > FORGOTTEN * (member.lease_s if member else 1.0):
                    path.unlink(missing_ok=True)
            elif pipe in (None, member.pipe):
                found.append(member)
        return sorted(found, key=lambda m: (m.pipe, m.role, m.job, m.rank, m.name))

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._clock.unlink(missing_ok=True)

    def _now(self) -> float:
        self._clock.touch()
        return self._clock.stat().st_mtime

    def _path(self, member: Member) -> Path:
        readable = "".join(
            c if c.isascii() and c.isalnum() else "-" for c in f"{member.pipe}.{member.role}.{member.name}"
        )
        return self._folder / f"{readable[:80]}.{hashlib.sha256(repr(member.key).encode()).hexdigest()[:12]}.json"


def _read(path: Path) -> Member | None:
    """None for a file that is not there, or that nobody of ours wrote."""
    try:
        return Member.from_dict(json.loads(path.read_text(encoding="utf-8")))
    except (FileNotFoundError, ValueError, PipeError):
        return None
