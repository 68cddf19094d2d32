"""Assignment: every item gets its raters, sides and checks are balanced for every annotator, and the seed decides."""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_study import study

from stepvideo.preference.assign import Choice, Given, choose
from stepvideo.preference.study import Study

GROUPS = (("vote", "repeat"), ("gold",), ("aa",), ("practice",))


class People:
    """Annotators who come in an order that a generator draws, and vote or skip at once."""

    def __init__(self, made: Study, count: int, seed: int = 0, skip: float = 0.0) -> None:
        self.made, self.skip, self.random = made, skip, np.random.default_rng(seed)
        self.mine: dict[int, list[Given]] = {n: [] for n in range(1, count + 1)}
        self.raters: dict[str, set[str]] = defaultdict(set)

    def ask(self, who: int) -> Choice | None:
        seen = {item: frozenset(names) for item, names in self.raters.items()}
        choice = choose(self.made, who, self.mine[who], seen, str(who))
        if choice is None:
            return None
        state = "skipped" if self.random.random() < self.skip else "voted"
        number = len(self.mine[who]) + 1
        name = f"{who}-{number}"
        self.mine[who].append(Given(name, number, choice.item.item, choice.role, choice.left, state, choice.repeat_of))
        if choice.role == "vote" and state == "voted":
            self.raters[choice.item.item].add(str(who))
        return choice

    def work(self) -> None:
        """Until nobody gets anything."""
        busy = list(self.mine)
        while busy:
            who = busy[self.random.integers(len(busy))]
            if self.ask(who) is None:
                busy.remove(who)


def balance(mine: list[Given], roles: tuple[str, ...]) -> int:
    count = Counter(g.left for g in mine if g.role in roles and g.state == "voted")
    return abs(count["a"] - count["b"])


@settings(max_examples=12)
@given(votes=st.integers(1, 30), count=st.integers(1, 9), raters=st.integers(1, 4), seed=st.integers(0, 99),
       skip=st.sampled_from([0.0, 0.2]))  # fmt: skip
def test_whoever_comes_items_are_filled_and_sides_balanced(votes, count, raters, seed, skip) -> None:
    made = study(votes=votes, golds=4, alike=4, raters=raters, seed=seed)
    people = People(made, count, seed, skip)
    people.work()
    for item in made.by_role["vote"]:
        got = people.raters[item.item]
        assert len(got) <= raters
        skipped = sum(g.item == item.item and g.state == "skipped" for mine in people.mine.values() for g in mine)
        assert len(got) >= min(raters, count - skipped)
    for mine in people.mine.values():
        once = [g.item for g in mine if g.role in ("vote", "gold", "aa")]
        assert len(once) == len(set(once))
        for n in range(len(mine) + 1):  # at every moment
            assert all(balance(mine[:n], roles) <= 1 for roles in GROUPS)
        for g in mine:
            if g.role == "repeat":
                first = next(o for o in mine if o.assignment == g.repeat_of)
                assert (first.item, first.role) == (g.item, "vote") and first.left != g.left
                assert g.number - first.number >= made.config.repeat_gap
        assert [g.role for g in mine[: made.config.practice]] == ["practice"] * made.config.practice


def test_shares_of_checks_are_the_configured_ones() -> None:
    made = study(votes=150, golds=20, alike=20, raters=1, practice=2)
    people = People(made, 1)
    people.work()
    count = Counter(g.role for g in people.mine[1])
    whole = sum(count.values()) - 2
    for role in ("gold", "aa", "repeat"):
        assert abs(count[role] - 0.05 * whole) <= 2
    assert count["vote"] == 150
    places = [g.number for g in people.mine[1] if g.role == "gold"]
    assert len(set(np.diff(places))) > 3  # drawn, not every twentieth


def test_pairs_of_annotators_meet_equally_often() -> None:
    made = study(votes=120, golds=0, alike=0, raters=3, practice=0, repeats=0.0)
    people = People(made, 6, seed=1)
    for n in range(60):
        for who in people.mine:
            assert people.ask(who) is not None, n
    met = Counter(p for names in people.raters.values() for p in itertools.combinations(sorted(names), 2))
    assert all(len(names) == 3 for names in people.raters.values())
    assert len(met) == 15 and max(met.values()) - min(met.values()) <= 6  # 24 on average


def test_the_seed_decides_and_annotators_differ() -> None:
    def course(seed: int) -> list[tuple[str, str]]:
        people = People(study(votes=20, raters=2, seed=seed), 3, seed=5)
        people.work()
        return [(g.item, g.left) for mine in people.mine.values() for g in mine]

    assert course(1) == course(1) != course(2)
    people = People(study(votes=20, raters=3, practice=0), 3, seed=5)
    people.work()
    assert len({tuple(g.item for g in mine) for mine in people.mine.values()}) == 3


@pytest.mark.parametrize("kind", ["rate", "label"])
def test_single_videos_have_no_sides(kind: str) -> None:
    people = People(study(kind, votes=40, raters=1, repeats=0.2), 1)
    people.work()
    assert {g.left for g in people.mine[1]} == {"a"} and any(g.role == "repeat" for g in people.mine[1])
