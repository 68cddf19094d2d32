"""Who may take part: a token for each annotator, kept as its hash, with an end; and how often they may ask."""

from __future__ import annotations

import hashlib
import re
import secrets
import threading
import time
from collections.abc import Callable

from sqlalchemy import Connection, func, insert, select, update

from stepvideo.errors import StepVideoError
from stepvideo.preference.store import people

NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")
ANNOTATOR, ADMIN = "annotator", "admin"


def _hash(token: str) -> str:
    """Plain sha256: a token is 256 random bits, which no dictionary holds, so slow hashing would guard nothing."""
    return hashlib.sha256(token.encode()).hexdigest()


def add(connection: Connection, name: str, days: float, role: str = ANNOTATOR, now: float | None = None) -> str:
    """A new token for a new or a known person; an older token of theirs ends. It is told this once.

    Raises:
        StepVideoError: the name cannot be used.
    """
    if not NAME.fullmatch(name):
        raise StepVideoError(f"annotator {name!r}: give 1 to 64 letters, digits, dots, dashes or underscores")
    if not 0 < days <= 3650:
        raise StepVideoError(f"--days {days}: give more than 0, up to 3650")
    token = secrets.token_urlsafe(32)
    values = {"token_sha256": _hash(token), "expires": (now or time.time()) + days * 86400, "revoked": None}
    known = connection.execute(select(people.c.role).where(people.c.name == name)).scalar()
    if known is None:
        number = connection.execute(select(func.coalesce(func.max(people.c.number), 0) + 1)).scalar_one()
        connection.execute(insert(people).values(name=name, number=number, role=role, **values))
    elif known != role:
        raise StepVideoError(f"{name} is {known} of this study already; give another name")
    else:
        connection.execute(update(people).where(people.c.name == name).values(**values))
    return token


def revoke(connection: Connection, name: str) -> None:
    """End a person's token now. Raises StepVideoError: there is no such person."""
    done = connection.execute(update(people).where(people.c.name == name).values(revoked=time.time()))
    if done.rowcount == 0:
        raise StepVideoError(f"no annotator {name!r} in this study")


def whose(connection: Connection, token: str, now: float) -> tuple[str, str] | None:
    """(name, role) of a token that is good now."""
    good = (people.c.token_sha256 == _hash(token)) & (people.c.expires > now) & people.c.revoked.is_(None)
    found = connection.execute(select(people.c.name, people.c.role).where(good)).first()
    return (found.name, found.role) if found else None


class Rate:
    """A bucket of requests for each caller: `burst` at once, `per_s` in the long run."""

    def __init__(self, per_s: float, burst: int, clock: Callable[[], float]) -> None:
        self.per_s, self.burst, self._clock = per_s, burst, clock
        self._left: dict[str, tuple[float, float]] = {}  # caller: (requests left, when)
        self._lock = threading.Lock()

    def spend(self, who: str) -> float:
        """Take one request; the seconds to wait if there is none left, else 0."""
        with self._lock:
            now = self._clock()
            if len(self._left) > 10_000:  # callers whose bucket is full again need no entry
                self._left = {w: s for w, s in self._left.items() if (now - s[1]) * self.per_s < self.burst}
            left, when = self._left.get(who, (self.burst, now))
            left = min(self.burst, left + max(0.0, now - when) * self.per_s)
            if left < 1:
                self._left[who] = (left, now)
                return (1 - left) / self.per_s
            self._left[who] = (left - 1, now)
            return 0.0
