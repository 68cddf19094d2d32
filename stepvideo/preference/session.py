"""What annotators do in a study, each a transaction: take the next item, fetch it, vote, skip, undo."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Row, and_, func, insert, or_, select, update

from stepvideo.errors import StepVideoError
from stepvideo.inference.serve.errors import Conflict, NotFound, Refused
from stepvideo.preference.answers import checked, feedback
from stepvideo.preference.assign import Choice, Given, choose, open_items
from stepvideo.preference.store import Store, assignments, events, meta, people
from stepvideo.preference.study import Study

RULES = "rules"  # in the table meta: their digest
AHEAD = "ahead"  # state of an assignment whose videos may be fetched already, and nothing else
SLACK_FRAMES = 2  # players tell their time a little before the last frame's end


@dataclass(frozen=True)
class Receipt:
    """`new`: whether the request was taken now, not at an earlier sending."""

    said: dict[str, Any]
    new: bool


class Session:
    """A study and its votes.

    Args:
        clock: seconds since 1970.
    """

    def __init__(self, study: Study, store: Store, clock: Callable[[], float] = time.time) -> None:
        self.study, self.store, self.clock = study, store, clock
        self._bind_rules()

    def _bind_rules(self) -> None:
        """The database keeps the digest of the rules from its first opening on: `study.json` alone could be rewritten
        with other rules and their digest."""

        def bound(connection: Connection) -> str | None:
            return connection.execute(select(meta.c.value).where(meta.c.name == RULES)).scalar()

        def bind(connection: Connection) -> str:
            if (known := bound(connection)) is None:
                connection.execute(insert(meta).values(name=RULES, value=self.study.rules_sha256))
            return known or self.study.rules_sha256

        if (first := self.store.read(bound) or self.store.write(bind)) != self.study.rules_sha256:
            raise StepVideoError(
                f"{self.study.name}: its votes were begun under the exclusion rules {first[:12]}, study.json has "
                f"{self.study.rules_sha256[:12]}; put the old study.json back (other rules: study report --rules)"
            )

    def next(self, me: str) -> dict[str, Any]:
        """The open assignment, or a new one, or {done: true}."""

        def work(connection: Connection) -> dict[str, Any]:
            if closed(connection):
                return {"done": True, "closed": True}
            row = self._open(connection, me) or self._begun(connection, me) or self._new(connection, me)
            if row is None:
                return {"done": True}
            return self._view(connection, me, row)

        return self.store.write(work)

    def ahead(self, me: str) -> dict[str, Any]:
        """The videos of the assignment after the open one, to be fetched early: nothing else is told of it.

        It is as good as given, so nobody else gets its place, and is taken back when the open one is skipped or
        anything is undone: sides are drawn on the word that the open one will be voted.
        """

        def work(connection: Connection) -> dict[str, Any]:
            standing = [g for g in _given(connection, me) if g.state in ("open", AHEAD)]
            if closed(connection) or not standing or standing[0].state != "open":
                return {"media": []}
            row = (
                self._standing(connection, standing[1].assignment) if standing[1:] else self._new(connection, me, AHEAD)
            )
            return {"media": _media(row) if row else []}

        return self.store.write(work)

    def media(self, me: str, media_id: str, whole: Callable[[str], bool]) -> str:
        """The file name of a video that is in front of this annotator.

        Args:
            whole: tells of a file whether it is about to be sent to its end. That is noted before it is sent: a note
                made after it could be lost, and then the vote of who has seen it would be refused.

        Raises:
            NotFound: it is not, whether it exists or not.
        """

        def work(connection: Connection) -> Row[Any] | None:
            named = or_(assignments.c.media_left == media_id, assignments.c.media_right == media_id)
            mine = and_(assignments.c.annotator == me, assignments.c.state.in_(["open", AHEAD]), named)
            return connection.execute(select(assignments).where(mine)).first()

        row = self.store.read(work)
        if row is None:
            raise NotFound("no such video is open for you")
        shown = "left" if row.media_left == media_id else "right"
        item = self.study.by_id[row.item]
        side = item.a if (shown == "left") == (row.left == "a") else item.b
        assert side is not None
        if getattr(row, f"fetched_{shown}") is None and whole(side.media):
            self._fetched(row.assignment, shown)
        return side.media

    def vote(self, me: str, assignment: str, key: str, answer: Mapping[str, Any], watched: Sequence[float],
             dwell_s: float) -> Receipt:  # fmt: skip
        """Take a vote.

        Raises:
            Refused: the answer does not fit the study, or the videos have not been watched.
            NotFound, Conflict: no such assignment, or it has a vote already.
        """
        said = {"answer": checked(self.study, answer), "watched": list(watched), "dwell_s": dwell_s}

        def work(connection: Connection, row: Row[Any]) -> None:
            self._must_be_needed(connection, row)
            self._must_have_watched(row, watched)

        return self._event(me, assignment, key, "vote", said, work)

    def skip(self, me: str, assignment: str, key: str, reason: str) -> Receipt:
        """Leave an item unanswered, with a reason. Raises as `vote`."""
        return self._event(me, assignment, key, "skip", {"reason": reason}, lambda *_: None)

    def undo(self, me: str) -> dict[str, Any]:
        """Open the last vote or skip again; asked twice, it is the same.

        What else is open is released, to be given anew: sides are balanced over what stands, one item at a time.

        Raises:
            Conflict: there is none, or others have judged meanwhile what was skipped.
        """

        def work(connection: Connection) -> dict[str, Any]:
            self._must_be_open(connection)
            last = connection.execute(
                select(events).where(events.c.annotator == me).order_by(events.c.seq.desc()).limit(1)
            ).first()
            if last is None:
                raise Conflict("there is nothing to undo yet")
            if last.what != "undo":
                self._must_be_needed(connection, self._mine(connection, me, last.assignment))
                others = (assignments.c.annotator == me) & assignments.c.state.in_(["open", AHEAD])
                connection.execute(update(assignments).where(others).values(state="released"))
                key = f"undo-{last.seq}"
                connection.execute(
                    insert(events).values(
                        annotator=me, key=key, assignment=last.assignment, what="undo", said="{}", time=self.clock()
                    )
                )
                self._set(connection, last.assignment, "open")
            return {"assignment": last.assignment}

        return self.store.write(work)

    def me(self, me: str) -> dict[str, Any]:
        """How far this annotator is."""

        def work(connection: Connection) -> dict[str, Any]:
            mine, raters = _given(connection, me), self._raters(connection)
            states = [g.state for g in mine]
            done, skipped = states.count("voted"), states.count("skipped")
            more = "open" in states or AHEAD in states or self._choice(connection, me, mine, raters) is not None
            left = max(1, self._expected(me, mine, raters) - done - skipped) if more else 0
            said = {"annotator": me, "done": done, "skipped": skipped, "remaining": left}
            return said | {"closed": closed(connection)}

        return self.store.read(work)

    def _event(self, me: str, assignment: str, key: str, what: str, said: dict[str, Any],
               check: Callable[[Connection, Row[Any]], None]) -> Receipt:  # fmt: skip
        text = json.dumps(said, ensure_ascii=False, sort_keys=True)

        def work(connection: Connection) -> Receipt:
            mine = events.c.annotator == me
            known = connection.execute(select(events).where(mine & (events.c.key == key))).first()
            if known:
                if (known.assignment, known.what) != (assignment, what):
                    raise Conflict("this key was used for another request")
                if any(json.loads(known.said).get(part) != said.get(part) for part in ("answer", "reason")):
                    raise Conflict("this key was used for another answer, which stands")
                row = self._mine(connection, me, assignment)
                return Receipt(self._receipt(row, what, json.loads(known.said)), new=False)
            self._must_be_open(connection)
            row = self._mine(connection, me, assignment)
            if row.state == AHEAD:
                raise Conflict("this item is not open yet")
            if row.state != "open":
                raise Conflict(f"this item is {row.state} already")
            check(connection, row)
            connection.execute(
                insert(events).values(
                    annotator=me, key=key, assignment=assignment, what=what, said=text, time=self.clock()
                )
            )
            self._set(connection, assignment, "voted" if what == "vote" else "skipped")
            if what == "skip":
                self._release_ahead(connection, me)
            return Receipt(self._receipt(row, what, said), new=True)

        return self.store.write(work)

    def _mine(self, connection: Connection, me: str, assignment: str) -> Row[Any]:
        named = (assignments.c.assignment == assignment) & (assignments.c.annotator == me)
        row = connection.execute(select(assignments).where(named)).first()
        if row is None:
            raise NotFound("no such assignment is yours")
        return row

    def _receipt(self, row: Row[Any], what: str, said: Mapping[str, Any]) -> dict[str, Any]:
        """What was taken; of practice with a known answer, also how right it was."""
        receipt: dict[str, Any] = {"assignment": row.assignment, "what": what}
        item = self.study.by_id[row.item]
        if row.role == "practice" and what == "vote" and item.expected is not None:
            receipt["feedback"] = feedback(item, row.left, said["answer"]["choice"])
        return receipt

    def _must_be_open(self, connection: Connection) -> None:
        if closed(connection):
            raise Conflict("the study is closed")

    def _must_be_needed(self, connection: Connection, row: Row[Any]) -> None:
        """An item gets its raters and no more, though a lease ended and others took it."""
        others = self._raters(connection, row.item).get(row.item, frozenset()) - {row.annotator}
        if row.role == "vote" and len(others) >= self.study.config.raters:
            raise Conflict("others have judged this item meanwhile")

    def _must_have_watched(self, row: Row[Any], watched: Sequence[float]) -> None:
        sides = [row.fetched_left, row.fetched_right] if row.media_right else [row.fetched_left]
        if len(watched) != len(sides):
            raise Refused(f"watched: give {len(sides)} numbers of seconds")
        media = self.study.config.media
        needed = max(0.0, self.study.config.must_watch * self.study.length_s - SLACK_FRAMES / media.fps)
        if None in sides or min(watched) < needed or self.clock() - max(s or math.inf for s in sides) < needed:
            raise Refused(f"watch to the end before you vote: {needed:.2f} s")

    def _open(self, connection: Connection, me: str) -> Row[Any] | None:
        """The first open assignment, its lease renewed; one whose item others have filled meanwhile is released."""
        mine = and_(assignments.c.annotator == me, assignments.c.state == "open")
        for row in connection.execute(select(assignments).where(mine).order_by(assignments.c.number)).all():
            if self._filled(connection, row):
                self._set(connection, row.assignment, "released")
                self._release_ahead(connection, me)
                continue
            if row.lease_until < self._lease() - 1:
                named = assignments.c.assignment == row.assignment
                connection.execute(update(assignments).where(named).values(lease_until=self._lease()))
            return row
        return None

    def _begun(self, connection: Connection, me: str) -> Row[Any] | None:
        """The assignment that was prepared, opened now: what was fetched early counts as fetched at this moment."""
        mine = and_(assignments.c.annotator == me, assignments.c.state == AHEAD)
        row = connection.execute(select(assignments).where(mine)).first()
        if row is None:
            return None
        if self._filled(connection, row):
            self._set(connection, row.assignment, "released")
            return None
        sides = {"fetched_left": row.fetched_left, "fetched_right": row.fetched_right}
        now = {name: self.clock() for name, when in sides.items() if when is not None}
        named = assignments.c.assignment == row.assignment
        connection.execute(update(assignments).where(named).values(state="open", lease_until=self._lease(), **now))
        return self._standing(connection, row.assignment)

    def _filled(self, connection: Connection, row: Row[Any]) -> bool:
        """Whether its lease ended, and others have taken its place."""
        others = self._raters(connection, row.item).get(row.item, frozenset()) - {row.annotator}
        return row.lease_until <= self.clock() and row.role == "vote" and len(others) >= self.study.config.raters

    def _release_ahead(self, connection: Connection, me: str) -> None:
        prepared = and_(assignments.c.annotator == me, assignments.c.state == AHEAD)
        connection.execute(update(assignments).where(prepared).values(state="released"))

    def _standing(self, connection: Connection, assignment: str) -> Row[Any]:
        return connection.execute(select(assignments).where(assignments.c.assignment == assignment)).one()

    def _new(self, connection: Connection, me: str, state: str = "open") -> Row[Any] | None:
        mine = _given(connection, me)
        choice = self._choice(connection, me, mine, self._raters(connection))
        if choice is None:
            return None
        count = len(mine) + 1
        name = self.study.opaque("assignment", me, count)
        right = self.study.opaque("media", name, "right") if choice.item.b else None
        connection.execute(
            insert(assignments).values(
                assignment=name, annotator=me, number=count, item=choice.item.item, role=choice.role,
                repeat_of=choice.repeat_of, left=choice.left, media_left=self.study.opaque("media", name, "left"),
                media_right=right, state=state, lease_until=self._lease(),
            )
        )  # fmt: skip
        return self._standing(connection, name)

    def _choice(
        self, connection: Connection, me: str, mine: Sequence[Given], raters: Mapping[str, frozenset[str]]
    ) -> Choice | None:
        number = connection.execute(select(people.c.number).where(people.c.name == me)).scalar_one()
        return choose(self.study, number, mine, raters, me)

    def _expected(self, me: str, mine: Sequence[Given], raters: Mapping[str, frozenset[str]]) -> int:
        """Items in all, as far as can be known; the same before and after an item is given, whatever its role."""
        config = self.study.config
        votes = sum(g.role == "vote" and g.state != "released" for g in mine)
        votes += len(open_items(self.study, mine, raters, me))
        checks = config.gold + config.aa + config.repeats
        return len(self.study.by_role["practice"]) + round(votes / (1 - checks))

    def _view(self, connection: Connection, me: str, row: Row[Any]) -> dict[str, Any]:
        item, config = self.study.by_id[row.item], self.study.config
        mine = _given(connection, me)
        standing = [g.assignment for g in mine if g.state != "released"]
        return {
            "assignment": row.assignment,
            "number": standing.index(row.assignment) + 1,
            "total": max(len(standing), self._expected(me, mine, self._raters(connection))),
            "practice": row.role == "practice",
            "prompt": dict(item.prompt),
            "media": _media(row),
            "fps": config.media.fps,
            "frames": config.media.frames,
        }

    def _raters(self, connection: Connection, item: str | None = None) -> dict[str, frozenset[str]]:
        """Item → who has voted on it or has it leased now; of votes, not of checks."""
        holds = or_(
            assignments.c.state == "voted",
            and_(assignments.c.state.in_(["open", AHEAD]), assignments.c.lease_until > self.clock()),
        )
        which = and_(assignments.c.role == "vote", holds, *([assignments.c.item == item] if item else []))
        found: dict[str, set[str]] = {}
        for row in connection.execute(select(assignments.c.item, assignments.c.annotator).where(which)):
            found.setdefault(row.item, set()).add(row.annotator)
        return {name: frozenset(who) for name, who in found.items()}

    def _fetched(self, assignment: str, shown: str) -> None:
        column = assignments.c[f"fetched_{shown}"]
        first = and_(assignments.c.assignment == assignment, column.is_(None))
        values = {column.name: self.clock()}
        self.store.write(lambda connection: connection.execute(update(assignments).where(first).values(values)))

    def _lease(self) -> float:
        return self.clock() + self.study.config.lease_s

    def _set(self, connection: Connection, assignment: str, state: str) -> None:
        named = assignments.c.assignment == assignment
        connection.execute(update(assignments).where(named).values(state=state, lease_until=self._lease()))


def closed(connection: Connection) -> bool:
    return connection.execute(select(func.count()).where(meta.c.name == "closed")).scalar_one() > 0


def _media(row: Row[Any]) -> list[dict[str, str]]:
    """In the order left, right."""
    return [{"id": m, "url": f"/api/media/{m}"} for m in (row.media_left, row.media_right) if m]


def _given(connection: Connection, me: str) -> list[Given]:
    rows = connection.execute(
        select(assignments).where(assignments.c.annotator == me).order_by(assignments.c.number)
    ).all()
    return [Given(r.assignment, r.number, r.item, r.role, r.left, r.state, r.repeat_of) for r in rows]
