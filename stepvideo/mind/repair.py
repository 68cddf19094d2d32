"""What happens to a node from a fault to its return: a state machine without clock, network or disk (report §6.5).

    in service ─fault─► draining ─empty─► rebooting ─up─► checking ─ok─► stressing ─ok─► admission ─► its pool | buffer
                           │                  ▲              │fails         │fails        │ score too low
                           │ inspect, replace └──── again, while tries are left ──────────┤
                           └──────────────────────────► out for repair ◄──────────────────┘
                                                         │ a person: repaired
                                                         └──► checking
    any ─an admin drains it─► drained by an admin ─the admin resumes it─► in service

`advance` says what an event makes of a record and what is to be done. More than 60 % of node failures end with a
reboot, so that comes first wherever the catalogue of faults says so, but not for a node that came back too often.
Whoever drains asks the circuit breaker first: what it refuses is no `Faulted` here.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum

from stepvideo.mind.faults import CATALOGUE, Category, Repair
from stepvideo.mind.nodes import Entry, Kind, Record, State

DAY = 86400.0
OURS = (State.DRAINING, State.REBOOTING, State.CHECKING, State.STRESSING, State.OUT, State.DRAINED)
SERVING = (State.IN_SERVICE, State.BUFFER)


@dataclass(frozen=True)
class Policy:
    """Bounds of the automatic part; what exceeds them is a person's.

    Attributes:
        tries: of a step (reboots of a case, checks that cannot say, stress tests).
        offences: repairs within `window_days` after which a fault means out for repair, without a reboot.
        drain_s, reboot_s, check_s, stress_s: how long a step may take.
        least_score: below it a node does not even wait in the buffer.
    """

    tries: int = 2
    offences: int = 3
    window_days: float = 30.0
    drain_s: float = 7 * DAY
    reboot_s: float = 1800.0
    check_s: float = 600.0
    stress_s: float = 14400.0
    least_score: float = 0.5

    def __post_init__(self) -> None:
        if self.tries < 1 or self.offences < 1:
            raise ValueError(f"tries, offences are {self.tries}, {self.offences}; give 1 or more")
        if min(self.drain_s, self.reboot_s, self.check_s, self.stress_s, self.window_days) <= 0:
            raise ValueError("a time is 0 or less; give more")

    def limit(self, state: State) -> float | None:
        """Seconds that a state may last; None: for ever."""
        limits = {
            State.DRAINING: self.drain_s,
            State.REBOOTING: self.reboot_s,
            State.CHECKING: self.check_s,
            State.STRESSING: self.stress_s,
        }
        return limits.get(state)


# ------------------------------------------------------------------------------------------------------------- events


@dataclass(frozen=True)
class Faulted:
    """A fault of the catalogue was found on the node, and it is to leave; a planned one after a checkpoint."""

    fault: str
    detail: str = ""


class Seen(StrEnum):
    """What the scheduler, or a person, did with the node."""

    EMPTY = "drained, and no job is left"
    UP_AGAIN = "back from its reboot"
    ADMIN_DRAINED = "an admin drained it"
    ADMIN_RESUMED = "an admin resumed it"


@dataclass(frozen=True)
class Checked:
    """ok None: the checks cannot say, for example since one timed out."""

    ok: bool | None
    detail: str = ""


@dataclass(frozen=True)
class Stressed:
    """seconds: how long it lasted; the score counts them."""

    ok: bool
    seconds: float
    detail: str = ""


@dataclass(frozen=True)
class Repaired:
    """By a person. how: reboot, inspect or replace; category: of what was replaced."""

    how: str
    category: Category | None = None
    detail: str = ""


@dataclass(frozen=True)
class Tick:
    """Time has passed."""


Event = Faulted | Seen | Checked | Stressed | Repaired | Tick


class Action(StrEnum):
    """For whoever holds the cluster, in this order."""

    DRAIN = "drain"
    REBOOT = "reboot"
    CHECK = "check"
    STRESS = "stress"
    TO_POOL = "to its pool"
    TO_BUFFER = "to the buffer"
    TELL = "tell a person"


@dataclass(frozen=True)
class Standing:
    """What admission looks at: the node's score, what its pool asks, whether that lacks nodes."""

    score: float
    pool_asks: float = 0.0
    pool_lacks: bool = True


# -------------------------------------------------------------------------------------------------------- transitions


def advance(
    record: Record, event: Event, now: float, policy: Policy = Policy(), standing: Standing = Standing(1.0)
) -> tuple[Record, tuple[Action, ...]]:
    """The record after an event, and what is to be done. An event that means nothing in its state changes nothing."""
    state = record.state
    if event is Seen.ADMIN_DRAINED:
        return (record, ()) if state == State.ADMIN else (record.into(State.ADMIN, now, fault="", tries=0), ())
    if state == State.ADMIN:
        return (_serving(record, now), ()) if event is Seen.ADMIN_RESUMED else (record, ())
    if event is Seen.ADMIN_RESUMED:  # while we held it: the admin knows better
        return (record, ()) if state in SERVING else (_serving(record, now), ())
    match event:
        case Faulted() if state in SERVING:
            seen = record.with_entry(_alert(event, now))
            return seen.into(State.DRAINING, now, event.fault, fault=event.fault, tries=0), (Action.DRAIN,)
        case Seen.EMPTY if state == State.DRAINING:
            return _treat(record, now, policy)
        case Seen.UP_AGAIN if state == State.REBOOTING:
            done = record.with_entry(Entry(now, Kind.REPAIR, "reboot", seconds=now - record.since))
            return done.into(State.CHECKING, now, tries=0), (Action.CHECK,)
        case Checked() if state == State.CHECKING:
            return _checked(record, event, now, policy)
        case Stressed() if state == State.STRESSING:
            tested = record.with_entry(
                Entry(now, Kind.STRESS, "stress", event.ok, seconds=event.seconds, detail=event.detail)
            )
            return _admit(tested, now, policy, standing) if event.ok else _again(tested, now, policy, event.detail)
        case Repaired() if state in (State.OUT, State.DRAINED):
            done = record.with_entry(Entry(now, Kind.REPAIR, event.how, category=event.category, detail=event.detail))
            return done.into(State.CHECKING, now, tries=0), (Action.CHECK,)
        case Tick() if (limit := policy.limit(state)) and now - record.since > limit:
            return _late(record, now, policy)
    return record, ()


def _alert(event: Faulted, now: float) -> Entry:
    known = CATALOGUE.get(event.fault)
    weight = 1.0 if known is None or known.fatal else 0.5
    if known and known.category == Category.SOFTWARE:
        weight = 0.0  # the job's, not the node's
    return Entry(
        now, Kind.ALERT, event.fault, False, weight, category=known.category if known else None, detail=event.detail
    )


def _treat(record: Record, now: float, policy: Policy) -> tuple[Record, tuple[Action, ...]]:
    """What the catalogue says; the unknown is rebooted like most."""
    known = CATALOGUE.get(record.fault)
    repair = known.repair if known else Repair.REBOOT
    if repeated(record, now, policy):
        return _out(record, now, f"{policy.offences} repairs within {policy.window_days:g} days")
    if repair in (Repair.INSPECT, Repair.REPLACE):
        return _out(record, now, f"{record.fault}: {repair}")
    if repair == Repair.REBOOT:
        return record.into(State.REBOOTING, now, record.fault, tries=1), (Action.REBOOT,)
    return record.into(State.CHECKING, now, tries=0), (Action.CHECK,)


def repeated(record: Record, now: float, policy: Policy = Policy()) -> bool:
    """Whether it was repaired so often lately that another reboot is no answer. What was replaced starts anew."""
    since = now - policy.window_days * DAY
    repairs = [e for e in record.history if e.kind == Kind.REPAIR]
    replaced = max((e.time for e in repairs if e.name == "replace"), default=since)
    return sum(e.time >= since and e.time > replaced for e in repairs) >= policy.offences


def _checked(record: Record, event: Checked, now: float, policy: Policy) -> tuple[Record, tuple[Action, ...]]:
    if event.ok:
        return record.into(State.STRESSING, now, tries=0), (Action.STRESS,)
    if event.ok is False:
        return _again(record, now, policy, event.detail)
    tries = record.tries + 1
    if tries >= policy.tries:
        return _out(record, now, f"the checks cannot say: {event.detail}")
    return replace(record, tries=tries), (Action.CHECK,)


def _again(record: Record, now: float, policy: Policy, why: str) -> tuple[Record, tuple[Action, ...]]:
    """Another reboot, or none is left of this case."""
    begun = max((e.time for e in record.history if e.kind == Kind.STATE and e.name in _BEGIN), default=record.since)
    reboots = sum(e.kind == Kind.REPAIR and e.name == "reboot" and e.time >= begun for e in record.history)
    if reboots >= policy.tries or repeated(record, now, policy):
        return _out(record, now, why)
    return record.into(State.REBOOTING, now, why, tries=1), (Action.REBOOT,)


_BEGIN = (State.DRAINING, State.OUT)  # of a case


def _late(record: Record, now: float, policy: Policy) -> tuple[Record, tuple[Action, ...]]:
    """A step that takes too long is tried again, at most `tries` times; jobs that do not leave are told to a person."""
    waited = f"{record.state} for {now - record.since:.0f} s"
    action = {State.REBOOTING: Action.REBOOT, State.CHECKING: Action.CHECK, State.STRESSING: Action.STRESS}
    if record.state == State.DRAINING:
        return replace(record, since=now), (Action.TELL,)
    if record.tries >= policy.tries:
        return _out(record, now, waited)
    return replace(record, since=now, tries=record.tries + 1), (action[record.state],)


def _admit(record: Record, now: float, policy: Policy, standing: Standing) -> tuple[Record, tuple[Action, ...]]:
    if standing.score < policy.least_score:
        return _out(record, now, f"score {standing.score:.2f} is below {policy.least_score:.2f}")
    if standing.pool_lacks and standing.score >= standing.pool_asks:
        return record.into(State.IN_SERVICE, now, fault="", tries=0), (Action.TO_POOL,)
    return record.into(State.BUFFER, now, fault="", tries=0), (Action.TO_BUFFER,)


def _serving(record: Record, now: float) -> Record:
    return record.into(State.IN_SERVICE, now, "by an admin", fault="", tries=0)


def _out(record: Record, now: float, why: str) -> tuple[Record, tuple[Action, ...]]:
    return record.into(State.OUT, now, why, tries=0), (Action.TELL,)
