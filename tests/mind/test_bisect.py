"""Bisection of the network: exactly the bad nodes and links, in few rounds; made-up faults, and real gloo groups."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import combinations
from typing import TYPE_CHECKING

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from stepvideo.mind.bisect import FastEnough, Found, Group, bisect, shared

if TYPE_CHECKING:
    from rank_pool import RankPool


def cluster(n: int) -> list[str]:
    return [f"n{i:03}" for i in range(n)]


class Faults:
    """A test that fails by bad nodes and links, and insists on disjoint groups."""

    def __init__(self, nodes: Sequence[str] = (), links: Sequence[Group] = ()) -> None:
        self.nodes, self.links = set(nodes), [set(link) for link in links]

    def __call__(self, groups: Sequence[Group]) -> list[bool]:
        members = [n for g in groups for n in g]
        assert len(members) == len(set(members)) and all(len(g) > 1 for g in groups)
        return [not (self.nodes & set(g) or any(link <= set(g) for link in self.links)) for g in groups]


@st.composite
def faults(draw: st.DrawFn) -> tuple[list[str], list[str], list[Group]]:
    names = cluster(draw(st.integers(8, 40)))
    bad = draw(st.lists(st.sampled_from(names), max_size=len(names) // 4, unique=True))
    rest = [n for n in names if n not in bad]
    links = draw(st.lists(st.sampled_from(list(combinations(rest, 2))), max_size=4, unique=True))
    assume(all(sum(n in link for link in links) <= 2 for n in rest))
    return names, bad, links


@settings(max_examples=60)
@given(faults())
def test_exactly_the_bad_nodes_and_links(made: tuple[list[str], list[str], list[Group]]) -> None:
    names, bad, links = made
    found = bisect(names, Faults(bad, links))
    assert (found.nodes, found.links, found.unsure) == (sorted(bad), sorted(links), [])


def test_few_rounds() -> None:
    """Of 512 nodes; a healthy cluster is told in two rounds, one bad node in at most five."""
    names = cluster(512)
    healthy, node = bisect(names, Faults()), bisect(names, Faults(["n300"]))
    assert (healthy.nodes, healthy.links, healthy.rounds) == ([], [], 2)
    assert node.nodes == ["n300"] and node.rounds <= 5
    link = bisect(names, Faults(links=[("n007", "n300")]))
    assert link.links == [("n007", "n300")] and link.rounds <= 45
    many = bisect(names, Faults([f"n{i:03}" for i in range(0, 512, 16)]))
    assert len(many.nodes) == 32 and many.rounds <= 6


def test_when_nobody_passes_with_anybody_nobody_is_blamed() -> None:
    found = bisect(cluster(6), Faults(cluster(6)))
    assert found.unsure == cluster(6) and not found.nodes
    with pytest.raises(ValueError, match="each once"):
        bisect(["a", "a"], Faults())


def test_a_slow_node_by_its_bandwidth() -> None:
    slow = FastEnough(lambda groups: [3.0 if "n004" in g else None if "n001" in g else 10.0 + len(g) for g in groups])
    assert bisect(cluster(8), slow).nodes == ["n001", "n004"]


def test_a_switch_is_blamed_when_all_behind_it_fail() -> None:
    of = {n: f"leaf{i // 4}" for i, n in enumerate(cluster(12))}
    assert shared(Found(nodes=cluster(12)[4:8] + ["n000"]), of) == {"leaf1": ["n004", "n005", "n006", "n007"]}


def found_alone() -> tuple[list[str], list[Group], int]:
    """In a process without threads, as groups are forked from it."""
    from stepvideo.mind.stress.group import run_group

    def test(groups: Sequence[Group]) -> list[bool]:
        def before(members: Group) -> Callable[[int], None]:
            def call(rank: int) -> None:
                if members[rank] == "n2":
                    raise OSError("its card is gone")

            return call

        return [bool(run_group(len(g), seconds=0.0, timeout_s=20, before=before(g))) for g in groups]

    found = bisect([f"n{i}" for i in range(4)], test)
    return found.nodes, found.links, found.rounds


def test_a_broken_rank_is_found_by_real_groups(ranks: RankPool) -> None:
    """Four processes that stand for nodes; one cannot exchange anything."""
    ((nodes, links, rounds),) = ranks(1, found_alone)
    assert nodes == ["n2"] and links == [] and rounds <= 5
