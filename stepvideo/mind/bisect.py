"""Finds bad nodes and bad links with few rounds of tests in small groups (report §6.5, RDMA network verification).

    1. pairs, all at once: nodes of a pair that passes are good, the others are suspects
    2. suspects with good nodes, all at once, up to three different ones: who never passes is bad (DLRover finds
       stragglers in two such rounds). A pair that failed of two good nodes is a bad link
    3. the good nodes as one group; while it fails, its halves; two halves that pass on their own fail together by a
       link between them, which halving either side finds

A test tells whether a group's exchanges work, or are fast enough (`FastEnough`). It must fail for every group with a
bad node or with both ends of a bad link, and pass for all others. The groups of a round are disjoint: they run at the
same time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median

Group = tuple[str, ...]
Test = Callable[[Sequence[Group]], Sequence[bool]]
PARTNERS = 3  # that a suspect must fail with: a bad link or two do not make a bad node


@dataclass
class Found:
    """unsure: nodes of which no pair passed, when nobody passed with anybody. tests: groups, of all rounds."""

    nodes: list[str] = field(default_factory=list)
    links: list[Group] = field(default_factory=list)
    unsure: list[str] = field(default_factory=list)
    rounds: int = 0
    tests: int = 0


class FastEnough:
    """A test from a measurement of each group's bandwidth, such as the bus bandwidth of an all-reduce (None: failed).

    A group is fast enough with `share` of the median of the first round in which any works, whose groups are pairs.
    """

    def __init__(self, measure: Callable[[Sequence[Group]], Sequence[float | None]], share: float = 0.7) -> None:
        self._measure, self._share = measure, share
        self.usual: float | None = None

    def __call__(self, groups: Sequence[Group]) -> list[bool]:
        values = self._measure(groups)
        worked = [v for v in values if v is not None]
        if self.usual is None and worked:
            self.usual = median(worked)
        return [v is not None and v >= self._share * (self.usual or 0.0) for v in values]


def bisect(nodes: Sequence[str], test: Test) -> Found:
    """Raises ValueError: fewer than two nodes, or one twice."""
    if len(set(nodes)) != len(nodes) or len(nodes) < 2:
        raise ValueError(f"{len(nodes)} nodes, {len(set(nodes))} different; give two or more, each once")
    search = _Search(test)
    good = search.nodes(list(nodes))
    search.links_within(good)
    found = search.found
    found.nodes.sort()
    found.links = sorted((a, b) for a, b in map(sorted, search.bad_links))
    return found


def shared(found: Found, of: Mapping[str, str]) -> dict[str, list[str]]:
    """What bad nodes and links have in common: {switch, or whatever `of` maps nodes to: its bad nodes}, where all of
    its nodes are bad or cut off, and it has two or more: then it is at fault rather than they."""
    bad = set(found.nodes) | {n for link in found.links for n in link}
    groups: dict[str, list[str]] = {}
    for node, switch in of.items():
        groups.setdefault(switch, []).append(node)
    return {s: sorted(nodes) for s, nodes in groups.items() if len(nodes) > 1 and bad.issuperset(nodes)}


class _Search:
    def __init__(self, test: Test) -> None:
        self.found = Found()
        self.bad_links: set[frozenset[str]] = set()
        self._test = test
        self._known: dict[frozenset[str], bool] = {}

    def ask(self, groups: Iterable[Group]) -> list[bool]:
        """One round for those that are not known yet."""
        asked = list(groups)
        new = [g for g in asked if frozenset(g) not in self._known]
        if new:
            self.found.rounds += 1
            self.found.tests += len(new)
            self._known |= dict(zip(map(frozenset, new), self._test(new)))
        return [self._known[frozenset(g)] for g in asked]

    # ------------------------------------------------------------------------------------------------------- nodes

    def nodes(self, nodes: list[str]) -> list[str]:
        """The good ones, in order."""
        good: set[str] = set()
        for pairs in _tournament(nodes):
            for pair, ok in zip(pairs, self.ask(pairs)):
                good |= set(pair) if ok else set()
            if good:
                break
        if not good:
            self.found.unsure = sorted(nodes)
            return []
        suspects = [n for n in nodes if n not in good]
        while suspects:
            pairs = self._with_partners(suspects, [n for n in nodes if n in good])
            for (suspect, _), ok in zip(pairs, self.ask(pairs)):
                good |= {suspect} if ok else set()
            bad = {s for s in suspects if s not in good and self._failed(s, good) >= min(PARTNERS, len(good))}
            self.found.nodes += bad
            suspects = [s for s in suspects if s not in good and s not in bad]
        self.bad_links |= {g for g, ok in self._known.items() if not ok and len(g) == 2 and g <= good}
        return [n for n in nodes if n in good]

    def _with_partners(self, suspects: list[str], good: list[str]) -> list[Group]:
        """As many suspects as there are partners, each with one that it was not tried with."""
        free, pairs = list(good), []
        for suspect in suspects:
            partner = next((g for g in free if frozenset((suspect, g)) not in self._known), None)
            if partner is not None:
                free.remove(partner)
                pairs.append((suspect, partner))
        return pairs

    def _failed(self, suspect: str, good: set[str]) -> int:
        return sum(not self._known.get(frozenset((suspect, g)), True) for g in good)

    # ------------------------------------------------------------------------------------------------------- links

    def links_within(self, nodes: Sequence[str]) -> None:
        """All bad links among good nodes into `bad_links`."""
        if len(nodes) < 2:
            return
        classes = self._apart(nodes)
        if len(classes) > 1:  # a bad link that is known hides others: never both its ends in a group
            for each in classes:
                self.links_within(each)
            for i, a in enumerate(classes):
                for b in classes[:i]:
                    self._links_between(a, b)
            return
        if self.ask([tuple(nodes)])[0]:
            return
        if len(nodes) == 2:
            self.bad_links.add(frozenset(nodes))
            return
        a, b = _halves(nodes)
        self.ask(h for h in (a, b) if len(h) > 1)  # in one round
        self.links_within(a)
        self.links_within(b)
        self._links_between(a, b)

    def _links_between(self, left: Sequence[str], right: Sequence[str]) -> None:
        """Links within each side are known."""
        for a in self._apart(left):
            for b in self._apart(right):
                self._cross(a, b)

    def _cross(self, a: Group, b: Group) -> None:
        """Of two groups that work, each on its own."""
        if not a or not b:
            return
        for link in self.bad_links:
            ends = [n for n in a if n in link], [n for n in b if n in link]
            if all(ends):  # known: look at the rest without it
                x, y = ends[0][0], ends[1][0]
                self._cross(tuple(n for n in a if n != x), b)
                self._cross((x,), tuple(n for n in b if n != y))
                return
        if self.ask([a + b])[0]:
            return
        if len(a) == len(b) == 1:
            self.bad_links.add(frozenset(a + b))
            return
        wide, narrow = (a, b) if len(a) >= len(b) else (b, a)
        for half in _halves(wide):
            self._cross(half, narrow)

    def _apart(self, nodes: Sequence[str]) -> list[Group]:
        """In as few classes as a greedy colouring finds, no class with both ends of a link that is known to be bad."""
        classes: list[list[str]] = []
        for node in nodes:
            free = (c for c in classes if all(frozenset((node, other)) not in self.bad_links for other in c))
            home = next(free, None)
            if home is None:
                classes.append([node])
            else:
                home.append(node)
        return [tuple(c) for c in classes]


def _halves(nodes: Sequence[str]) -> tuple[Group, Group]:
    middle = len(nodes) // 2
    return tuple(nodes[:middle]), tuple(nodes[middle:])


def _tournament(nodes: Sequence[str]) -> Iterable[list[Group]]:
    """Rounds of disjoint pairs in which everybody meets everybody: one place is fixed, the others rotate."""
    ring: list[str | None] = [*nodes, *([None] if len(nodes) % 2 else [])]
    half = len(ring) // 2
    for _ in range(len(ring) - 1):
        pairs = zip(ring[:half], reversed(ring[half:]))
        yield [(a, b) for a, b in pairs if a is not None and b is not None]
        ring = [ring[0], ring[-1], *ring[1:-1]]
