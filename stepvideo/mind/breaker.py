"""A circuit breaker on drains: a check that is broken everywhere must not empty the cluster.

It opens when a drain would be one too many, and then refuses all until a person closes it. Dead nodes are not drained:
they do not pass here.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any


@dataclass(frozen=True)
class Limits:
    """Shares are of the nodes of the cluster; `always` nodes may be drained whatever the shares say.

    Attributes:
        same_cause: drains for one cause within the window: many nodes with one fault at once are one broken check, or
            one broken thing that they share, and no node's fault.
        drained: drains within the window, whatever the cause.
        out: nodes out of service at a time, whoever took them out.
    """

    window_s: float = 3600.0
    always: int = 1
    same_cause: float = 0.02
    drained: float = 0.05
    out: float = 0.5

    def __post_init__(self) -> None:
        if self.window_s <= 0 or self.always < 0:
            raise ValueError(f"window_s {self.window_s:g}, always {self.always}: give more than 0, and 0 or more")
        if not 0 < self.same_cause <= self.drained <= self.out <= 1:
            shares = f"{self.same_cause:g}, {self.drained:g}, {self.out:g}"
            raise ValueError(f"same_cause, drained, out are {shares}; give shares of 1 that do not fall")


@dataclass(frozen=True)
class Drain:
    time: float
    node: str
    cause: str


@dataclass(frozen=True)
class Breaker:
    """Its state: the drains that it let pass within the window, and why it is open, if it is."""

    drains: tuple[Drain, ...] = ()
    open: str = ""
    opened: float = 0.0

    def ask(
        self, now: float, node: str, cause: str, fleet: int, out: int, limits: Limits = Limits()
    ) -> tuple[Breaker, bool]:
        """Its next state, and whether the node may be drained.

        Args:
            fleet: nodes of the cluster.
            out: of them out of service already.
        """
        kept = tuple(d for d in self.drains if now - d.time < limits.window_s)
        if self.open:
            return self, False
        if any(d.node == node for d in kept):
            return replace(self, drains=kept), True
        same = sum(d.cause == cause for d in kept) + 1
        for found, share, words in (
            (same, limits.same_cause, f"nodes fail {cause} within {limits.window_s:g} s"),
            (len(kept) + 1, limits.drained, f"drains within {limits.window_s:g} s"),
            (out + 1, limits.out, "nodes would be out of service"),
        ):
            if found > max(limits.always, share * fleet):
                why = f"{found} of {fleet} {words}: look at the check and at what the nodes share"
                return replace(self, drains=kept, open=why, opened=now), False
        return replace(self, drains=(*kept, Drain(now, node, cause))), True

    def closed(self) -> Breaker:
        """By a person, who has looked; what was drained before is forgotten."""
        return Breaker()

    def json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def of_json(cls, data: dict[str, Any]) -> Breaker:
        return cls(**{**data, "drains": tuple(Drain(**d) for d in data["drains"])})
