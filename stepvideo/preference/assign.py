"""Which item an annotator gets next, and which side is shown left: a pure function of the study and what was given.

Every item gets `raters` annotators. Whoever asks gets, of the items that have the fewest, one whose raters they have
met least (balanced incomplete blocks, without knowing how many annotators will come). Gold, A/A and repeated items come
at places of the annotator's own sequence that the seed draws.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from stepvideo.preference.config import StudyConfig
from stepvideo.preference.study import Item, Study

BLOCK = 20  # places of a sequence among which the places of one role are drawn
MIXED = ("repeat", "gold", "aa")
STANDING = ("open", "ahead", "voted")  # states whose sides count


@dataclass(frozen=True)
class Given:
    """An assignment of this annotator. `state`: open, ahead (next, being fetched), voted, skipped or released."""

    assignment: str
    number: int
    item: str
    role: str
    left: str
    state: str
    repeat_of: str | None = None


@dataclass(frozen=True)
class Choice:
    """What comes next. `repeat_of`: the assignment that it repeats."""

    item: Item
    role: str
    left: str
    repeat_of: str | None = None


def choose(
    study: Study, annotator: int, mine: Sequence[Given], raters: Mapping[str, frozenset[str]], me: str
) -> Choice | None:
    """The next assignment; None if there is nothing (more) for this annotator now.

    Args:
        annotator: their number in the study.
        mine: all that they were given so far, in order.
        raters: item → who has voted on it or has it now.
        me: their name in `raters`.
    """
    draw = _Draw(study, annotator)
    mine = [g for g in mine if g.state != "released"]  # as if they had never been given
    practised = sum(g.role == "practice" for g in mine)
    practice = study.by_role["practice"]
    if practised < len(practice):
        return Choice(practice[practised], "practice", _side(study, draw, mine, "practice"))
    counted = [g for g in mine if g.role != "practice"]
    given = Counter(g.role for g in counted)
    for role in MIXED:
        if draw.due(study.config, role, len(counted) + 1) > given[role]:
            choice = _repeat(study, draw, mine) if role == "repeat" else _check(study, draw, mine, role)
            if choice:
                return choice
    item = _vote_item(study, draw, mine, raters, me)
    return Choice(item, "vote", _side(study, draw, mine, "vote")) if item else None


def open_items(study: Study, mine: Sequence[Given], raters: Mapping[str, frozenset[str]], me: str) -> list[Item]:
    """Items that this annotator could still be given to vote on."""
    seen = {g.item for g in mine if g.state != "released"}
    few = study.config.raters
    return [
        i for i in study.by_role["vote"] if i.item not in seen and len(raters.get(i.item, frozenset()) - {me}) < few
    ]


def _vote_item(
    study: Study, draw: _Draw, mine: Sequence[Given], raters: Mapping[str, frozenset[str]], me: str
) -> Item | None:
    met: Counter[str] = Counter()
    for g in mine:
        if g.role == "vote" and g.state in STANDING:
            met.update(raters.get(g.item, frozenset()) - {me})

    def order(item: Item) -> tuple[int, int, float]:
        others = raters.get(item.item, frozenset()) - {me}
        return len(others), sum(met[o] for o in others), draw.number("order", item.item)

    return min(open_items(study, mine, raters, me), key=order, default=None)


def _check(study: Study, draw: _Draw, mine: Sequence[Given], role: str) -> Choice | None:
    seen = {g.item for g in mine}
    fresh = [i for i in study.by_role[role] if i.item not in seen]
    item = min(fresh, key=lambda i: draw.number("order", i.item), default=None)
    return Choice(item, role, _side(study, draw, mine, role)) if item else None


def _repeat(study: Study, draw: _Draw, mine: Sequence[Given]) -> Choice | None:
    """An earlier vote with its sides swapped, such that sides stay balanced."""
    again = {g.repeat_of for g in mine}
    late = max((g.number for g in mine), default=0) + 1 - study.config.repeat_gap
    sides = ("a", "b") if not study.config.paired else _lesser(mine, "vote")
    fits = [
        g
        for g in mine
        if g.role == "vote" and g.state == "voted" and g.number <= late and g.assignment not in again
        and (not study.config.paired or _other(g.left) in sides)
    ]  # fmt: skip
    first = min(fits, key=lambda g: draw.number("again", g.assignment), default=None)
    if first is None:
        return None
    left = _other(first.left) if study.config.paired else "a"
    return Choice(study.by_id[first.item], "repeat", left, first.assignment)


def _side(study: Study, draw: _Draw, mine: Sequence[Given], role: str) -> str:
    if not study.config.paired:
        return "a"
    sides = _lesser(mine, role)
    return sides[int(draw.number("side", role, len(mine)) * len(sides))]


def _lesser(mine: Sequence[Given], role: str) -> tuple[str, ...]:
    """The side that was left less often among this role's assignments that stand; both if they are even."""
    roles = ("vote", "repeat") if role in ("vote", "repeat") else (role,)
    count = Counter(g.left for g in mine if g.role in roles and g.state in STANDING)
    if count["a"] == count["b"]:
        return ("a", "b")
    return ("a",) if count["a"] < count["b"] else ("b",)


def _other(side: str) -> str:
    return "b" if side == "a" else "a"


class _Draw:
    """Numbers of one annotator that seed and secret fix, whatever the order in which they are asked for.

    Of the seed alone, which is mostly 0, an annotator could compute sides and the places of gold.
    """

    def __init__(self, study: Study, annotator: int) -> None:
        self._key = study.opaque("draw", study.config.seed, annotator)

    def number(self, *what: object) -> float:
        """Uniform in [0, 1)."""
        said = "/".join(map(str, (self._key, *what)))
        return int.from_bytes(hashlib.sha256(said.encode()).digest()[:6], "big") / 2**48

    def due(self, config: StudyConfig, role: str, count: int) -> int:
        """How many of the first `count` places belong to the role."""
        share = {"repeat": config.repeats, "gold": config.gold, "aa": config.aa}[role]
        phase = self.number("phase", role)
        blocks, rest = divmod(count, BLOCK)
        whole = int(blocks * BLOCK * share + phase)
        inside = int((blocks + 1) * BLOCK * share + phase) - whole
        seed = int(self.number("places", role, blocks) * 2**32)
        return whole + int((np.random.default_rng(seed).permutation(BLOCK)[:inside] < rest).sum())
