"""Where something is: ranks, the nodes that they run on, and the groups of ranks that can only be slow together."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property


@dataclass(frozen=True)
class Place:
    """Whom a finding is about.

    kind: rank | node | group (of ranks that exchange inside forward and backward) | run | source | bucket.
    ranks, nodes: all that belong to it; of a group that spans nodes, every node is a suspect.
    """

    kind: str
    name: str
    ranks: tuple[int, ...] = ()
    nodes: tuple[str, ...] = ()

    def __str__(self) -> str:
        if self.kind == "run":
            return self.name or "the run"
        on = f" on {', '.join(self.nodes)}" if self.kind in ("rank", "group") and self.nodes else ""
        return f"{self.kind} {self.name}{on}"


RUN = Place("run", "")


@dataclass(frozen=True)
class Layout:
    """Ranks of a job.

    nodes: {rank: node}.
    tensor, ulysses: degrees (`stepvideo.parallel`). Blocks of tensor x ulysses neighbouring ranks compute on the same
        samples and exchange in every layer: one slow rank makes all of its block slow, and what data they consume is
        counted once.
    """

    nodes: Mapping[int, str]
    tensor: int = 1
    ulysses: int = 1

    def __post_init__(self) -> None:
        for name in ("tensor", "ulysses"):
            if getattr(self, name) < 1:
                raise ValueError(f"layout.{name}={getattr(self, name)}: give the degree, 1 or more")

    @property
    def block(self) -> int:
        """Ranks of a group."""
        return self.tensor * self.ulysses

    @cached_property
    def ranks(self) -> tuple[int, ...]:
        return tuple(sorted(self.nodes))

    @cached_property
    def by_node(self) -> dict[str, frozenset[int]]:
        found: dict[str, set[int]] = {}
        for rank in self.ranks:
            found.setdefault(self.nodes[rank], set()).add(rank)
        return {node: frozenset(ranks) for node, ranks in found.items()}

    @cached_property
    def by_group(self) -> dict[int, frozenset[int]]:
        """Empty if every rank works alone."""
        found: dict[int, set[int]] = {}
        for rank in self.ranks if self.block > 1 else ():
            found.setdefault(rank // self.block, set()).add(rank)
        return {group: frozenset(ranks) for group, ranks in found.items()}

    def place(self, kind: str, name: str, ranks: Iterable[int]) -> Place:
        chosen = tuple(sorted(ranks))
        return Place(kind, name, chosen, tuple(sorted({self.nodes[r] for r in chosen if r in self.nodes})))

    def rank(self, rank: int) -> Place:
        return self.place("rank", str(rank), (rank,))

    def node(self, node: str) -> Place:
        return self.place("node", node, self.by_node[node])

    def group(self, group: int) -> Place:
        ranks = self.by_group[group]
        return self.place("group", f"{group} (ranks {min(ranks)} to {max(ranks)})", ranks)

    def reach(self, ranks: Iterable[int]) -> frozenset[int]:
        """All ranks that are slow when these are."""
        chosen = frozenset(ranks)
        return chosen.union(*(group for group in self.by_group.values() if group & chosen))


MOST = 0.75  # of a place's ranks are slow: then it is the place


def blame(slow: Collection[int], layout: Layout, computing: Collection[int] = ()) -> list[Place]:
    """The fewest places that explain why these ranks are slow, none of which would make many others slow.

    A node is blamed if (nearly) all ranks of all groups that it has a part in are slow, and no other node accounts for
    the same ranks; a group if that is as near as one can get; else a rank.

    Args:
        computing: those of the slow ranks that are slow where nobody is waited for: guilty by themselves, while the
            rest of their groups waits for them.
    """
    alone = Layout(layout.nodes)
    found = _cover(frozenset(slow) & frozenset(computing), alone)
    explained = layout.reach(rank for place in found for rank in place.ranks)
    return found + _cover(frozenset(slow) - explained, layout)


def _cover(slow: frozenset[int], layout: Layout) -> list[Place]:
    """Greedily, the largest explanation first; at equal size nodes before groups before ranks."""
    nodes = {node: layout.reach(ranks) for node, ranks in layout.by_node.items() if len(ranks) > 1}
    shared = [reach for reach in nodes.values() if list(nodes.values()).count(reach) > 1]
    suspects = [(layout.node(node), reach) for node, reach in nodes.items() if reach not in shared]
    suspects += [(layout.group(group), ranks) for group, ranks in layout.by_group.items()]
    suspects = [(place, reach) for place, reach in suspects if len(reach & slow) >= MOST * len(reach)]
    suspects.sort(key=lambda s: -len(s[1]))
    found, left = [], set(slow)
    for place, reach in suspects:
        if len(reach & left) >= MOST * len(reach):
            found.append(place)
            left -= reach
    return found + [layout.rank(rank) for rank in sorted(left)]
