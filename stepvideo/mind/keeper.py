"""Keeps nodes in order: brings together what the scheduler and the nodes say, `repair.advance`, and the hands that act.

One keeper at a time; a new one goes on from the records. What it does is done before it is written down, and can be
done twice: a keeper that dies between loses nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

from stepvideo.errors import StepVideoError
from stepvideo.mind.checks.result import Status, verdict
from stepvideo.mind.checks.run import result
from stepvideo.mind.cluster import MARK, Node, NodeManager, NodeState
from stepvideo.mind.faults import CATALOGUE
from stepvideo.mind.nodes import Entry, Kind, Record, State, first_seen
from stepvideo.mind.pool import Pool, match
from stepvideo.mind.repair import SERVING, Action, Checked, Event, Faulted, Seen, Standing, Stressed, Tick, advance
from stepvideo.mind.score import score
from stepvideo.mind.settings import Folder, Settings
from stepvideo.mind.uniform import minority

OUT = (NodeState.DRAINED, NodeState.DOWN)
LEAST_ALIKE = 3  # nodes of a kind, to say who differs
AGAIN_S = 3600.0  # between two notes of a fault whose drain was refused


class Keeper:
    """`tick` is one round; whoever calls it gives the time."""

    def __init__(self, folder: Folder, manager: NodeManager, said: Callable[[str], None] = print) -> None:
        self._folder, self._manager, self._said = folder, manager, said
        self._told: dict[str, str] = {}
        self._handled: dict[tuple[str, str], str] = {}  # (kind, node) → id of the report

    def tick(self, now: float) -> dict[str, Record]:
        """Looks once and acts; the records after it. now: s since the epoch.

        Raises:
            Unanswered: the scheduler; nothing is lost.
            ConfigError: settings are wrong.
        """
        settings = self._folder.settings()
        views = {n.name: n for n in self._manager.nodes()}
        for name, view in views.items():
            handled = dict(self._handled)
            try:
                if self._folder.book.get(name) is None:
                    self._folder.book.update(name, lambda old, v=view: old or _introduced(v, now, settings))
                for event in self._events(view, now, views, settings):
                    self._apply(name, event, now, settings)
            except StepVideoError as e:  # the scheduler refuses, or what is known of it does not read: the others' turn
                self._handled = handled
                self._once(name, str(e))
            except (KeyError, TypeError, ValueError) as e:  # as of a node with another version of this
                self._handled = handled
                self._once(name, f"its reports in {self._folder.root} are none that are known here: {e!r}")
            except Exception:
                self._handled = handled  # what was not acted on is news again
                raise
        self._replace(now, settings, views)
        return self._folder.book.all()

    def _once(self, node: str, text: str) -> None:
        """Says it, unless it was the last that was said of the node."""
        if self._told.get(node) != text:
            self._told[node] = text
            self._said(f"{node}: {text}")

    # ------------------------------------------------------------------------------------------------------- what is

    def _events(self, view: Node, now: float, views: dict[str, Node], settings: Settings) -> Iterator[Event]:
        record = self._folder.book.get(view.name)
        assert record
        if view.admin:
            yield Seen.ADMIN_DRAINED
            return
        if view.usable and record.state not in SERVING:
            yield Seen.ADMIN_RESUMED
            return
        if record.state in SERVING:
            yield from self._fault(record, view, now, views, settings)
        elif record.state == State.DRAINING and view.state in OUT and not view.busy:
            yield Seen.EMPTY
        elif record.state == State.REBOOTING and view.state == NodeState.DRAINED:
            yield Seen.UP_AGAIN
        elif record.state == State.CHECKING and (said := self._news("checks", record)):
            found = [result(row) for row in said["results"]]
            bad = [r for r in found if r.status == Status.FAIL] or [r for r in found if r.unsure]
            unlike = self._unlike(view.name, settings)
            yield Checked(verdict(found) if not unlike else False, "; ".join([*map(str, bad), *unlike]))
        elif record.state == State.STRESSING and (said := self._news("stress", record)):
            yield Stressed(said["ok"], said["seconds"], said["detail"])
        yield Tick()

    def _fault(
        self, record: Record, view: Node, now: float, views: dict[str, Node], settings: Settings
    ) -> Iterator[Event]:
        if view.state in OUT:  # by another part of StepMind, or by the scheduler
            words = view.reason.removeprefix(MARK).split() if view.ours else []
            fault = words[0].rstrip(":") if words else "NODE_SHUTDOWN"
            yield Faulted(fault if fault in CATALOGUE else "NODE_SHUTDOWN", view.reason)
            return
        said = self._news("checks", record)
        failed = [r for row in said.get("results", ()) if (r := result(row)).status == Status.FAIL]
        if not failed:
            return
        worst = failed[0]
        out = sum(v.state in OUT for v in views.values())
        if self._folder.ask_breaker(now, view.name, worst.check, len(views), out, settings.limits):
            yield Faulted(worst.fault, str(worst))
        else:
            self._refused(record, worst.fault, str(worst), now)

    def _news(self, kind: str, record: Record) -> dict[str, Any]:
        """A report that was not handled yet, and that began in the record's present state; {} if there is none."""
        said = self._folder.report(kind, record.name)
        if not said or self._handled.get((kind, record.name)) == said["id"]:
            return {}
        if said.get("since") != record.since:
            return {}
        self._handled[kind, record.name] = said["id"]
        return said

    def _unlike(self, node: str, settings: Settings) -> list[str]:
        """In what a node's set-up differs from that of most nodes with the same CPUs and GPUs."""
        prints = self._folder.prints()
        kinds = {n: (p.get("cpu"), p.get("gpu 0 name")) for n, p in prints.items()}
        alike = {n: p for n, p in prints.items() if kinds[n] == kinds.get(node)}
        found = minority(alike)[0].get(node, []) if len(alike) >= LEAST_ALIKE else []
        return [f"{d.key} is {d.own}, not {d.common}" for d in found if d.key.startswith(settings.alike)]

    def _refused(self, record: Record, fault: str, detail: str, now: float) -> None:
        known = any(e.name == fault and now - e.time < AGAIN_S for e in record.history if e.kind == Kind.ALERT)
        if not known:
            entry = Entry(now, Kind.ALERT, fault, False, detail=f"not drained, the breaker is open: {detail}")
            self._folder.book.add(record.name, entry)
            why = self._folder.breaker().open
            self._said(f"{record.name}: {detail}\n  not drained: {why}; then: stepvideo mind admit --close-breaker")

    # ---------------------------------------------------------------------------------------------------- what to do

    def _apply(self, name: str, event: Event, now: float, settings: Settings) -> None:
        def change(record: Record | None) -> Record:
            assert record
            standing = self._standing(record, event, now, settings)
            after, actions = advance(record, event, now, settings.policy, standing)
            for action in actions:
                self._act(action, after, settings)
            if after.state != record.state:
                why = after.history[-1].detail
                self._said(f"{name}: {record.state} → {after.state}" + (f" ({why})" if why else ""))
            return after

        self._folder.book.update(name, change)

    def _standing(self, record: Record, event: Event, now: float, settings: Settings) -> Standing:
        tested = record
        if isinstance(event, Stressed):
            tested = record.with_entry(Entry(now, Kind.STRESS, "stress", event.ok, seconds=event.seconds))
        asks = _pool(record.home, settings).least_score
        return Standing(score(tested, now, settings.scoring), asks, record.home != settings.buffer)

    def _act(self, action: Action, record: Record, settings: Settings) -> None:
        name, manager = record.name, self._manager
        last = next((e for e in reversed(record.history) if e.kind == Kind.ALERT), None)
        reason = f"{record.fault} {last.detail}".strip() if last else record.fault
        match action:
            case Action.DRAIN:
                manager.drain(name, _short(reason, record.fault))
            case Action.REBOOT:
                manager.reboot(name, _short(reason, record.fault))
            case Action.TO_POOL | Action.TO_BUFFER:
                place = record.home if action == Action.TO_POOL else settings.buffer
                if manager.move(name, place):
                    manager.resume(name)
            case Action.TELL:
                self._said(f"{name}: a person is needed; it is {record.state}: {record.history[-1].detail}")
            case Action.CHECK | Action.STRESS:  # the node's own program sees the record, and reports
                pass

    def _replace(self, now: float, settings: Settings, views: dict[str, Node]) -> None:
        """Nodes of the buffer for the pools whose own are out of service."""
        records = self._folder.book.all()
        waiting = {n: r for n, r in records.items() if r.state == State.BUFFER and n in views and views[n].usable}
        gone = [r for r in records.values() if r.state not in (*SERVING, State.ADMIN) and r.home != settings.buffer]
        needs = [_pool(r.home, settings) for r in gone]
        scores = {n: score(r, now, settings.scoring) for n, r in waiting.items()}
        for home, node in match(needs, scores).placed:
            left = next(r for r in gone if r.home == home)
            gone.remove(left)
            if not self._manager.move(node, home):
                continue
            change = partial(_homed, state=State.IN_SERVICE, home=home, now=now, why=f"in place of {left.name}")
            self._folder.book.update(node, change)
            self._folder.book.update(left.name, partial(_rehomed, home=settings.buffer))
            self._said(f"{node}: from the buffer to {home}, score {scores[node]:.3f}, in place of {left.name}")


def _introduced(view: Node, now: float, settings: Settings) -> Record:
    home = ",".join(view.partitions) or settings.buffer
    state = State.ADMIN if view.admin else State.BUFFER if home == settings.buffer else State.IN_SERVICE
    return first_seen(view.name, home, now, state)


def _pool(home: str, settings: Settings) -> Pool:
    """Named by the partition, of several by the first one."""
    known = next((p for p in settings.pools if p.name in (home, home.partition(",")[0])), None)
    return replace(known or Pool(home), name=home)


def _homed(record: Record | None, state: State, home: str, now: float, why: str) -> Record:
    assert record
    return record.into(state, now, why, home=home)


def _rehomed(record: Record | None, home: str) -> Record:
    assert record
    return replace(record, home=home)


def _short(reason: str, fault: str) -> str:
    """A reason of Slurm's is one line; the fault comes first, so that others can read it."""
    line = " ".join(reason.split()).replace('"', "'")
    return (line if line.startswith(fault) else f"{fault} {line}")[:180]
