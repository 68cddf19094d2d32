"""Who is at a pipe, and what a registry of them does."""

from __future__ import annotations

import secrets
import time
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Protocol

from stepvideo.pipes.config import POLICIES
from stepvideo.pipes.errors import PipeError, Replaced

PRODUCER, CONSUMER = "producer", "consumer"
MAX_LEASE_S = 86400.0


@dataclass(frozen=True)
class Member:
    """One end of a pipe, as it last said. `metrics` are its own; `instance` is its life and sorts after earlier ones.

    job, rank, address, capacity_bytes, policy: of consumers.
    finished: a consumer's last words: this life left and its job wants nothing more. They stay until their lease ends.
    """

    pipe: str
    role: str
    name: str
    instance: str
    address: str = ""
    job: str = ""
    rank: int = 0
    capacity_bytes: int = 0
    policy: str = ""
    lease_s: float = 2.0
    finished: bool = False
    metrics: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("pipe", "name", "job"):
            value = getattr(self, name)
            if not isinstance(value, str) or len(value) > 128 or not (value.isprintable() and (value or name == "job")):
                raise PipeError(f"{name}={str(value)[:40]!r} is no name; give 1 to 128 printable characters")
        if self.role not in (PRODUCER, CONSUMER) or type(self.rank) is not int or not isinstance(self.metrics, dict):
            raise PipeError(f"member {self.name!r}: role {self.role!r}, rank {self.rank!r} or metrics are impossible")
        texts = (self.instance, self.address, self.policy)
        if not all(isinstance(t, str) for t in texts) or self.policy not in ("", *POLICIES):
            raise PipeError(f"member {self.name!r}: its instance, address or policy {self.policy!r:.40} is none")
        if type(self.capacity_bytes) is not int or type(self.lease_s) not in (int, float):
            raise PipeError(f"member {self.name!r}: capacity_bytes or lease_s is no number")
        if not 0 <= self.lease_s <= MAX_LEASE_S:
            raise PipeError(f"member {self.name!r}: lease_s={self.lease_s} is not between 0 and {MAX_LEASE_S:.0f} s")

    @property
    def key(self) -> tuple[str, str, str, str]:
        """What only one life has at a time."""
        return self.pipe, self.role, self.job, self.name

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, raw: Any) -> Member:
        """Raises PipeError for what no member says; fields of later versions are passed by."""
        known = {f.name for f in fields(cls)}
        try:
            return cls(**{k: v for k, v in raw.items() if k in known})
        except (AttributeError, TypeError) as e:
            raise PipeError(f"this is no member of a pipe: {e}") from None


class Registry(Protocol):
    """Where members say that they are there. Whoever says nothing for its `lease_s` is gone.

    Raises PipeError or OSError while it cannot be reached.
    """

    def put(self, member: Member) -> None:
        """Enter, or renew with new metrics. Raises Replaced if a later life has the name."""
        ...

    def drop(self, member: Member) -> None:
        """Leave; nothing happens if a later life has the name."""
        ...

    def members(self, pipe: str | None = None) -> list[Member]:
        """Those whose lease runs, of this pipe or of all, sorted by key."""
        ...

    def close(self) -> None: ...


def new_instance() -> str:
    return f"{time.time_ns():020d}-{secrets.token_hex(4)}"


def check_newest(known: Member | None, member: Member) -> None:
    """Raises Replaced if the known life of this name began later."""
    if known is not None and known.instance > member.instance:
        raise Replaced(f"a later {member.role} took the name {member.name!r} at pipe {member.pipe!r}; this one stops")
