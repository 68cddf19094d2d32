"""A scheduler in the place of Slurm: its nodes are in the state that a test gives them."""

from __future__ import annotations

from collections.abc import Sequence

from stepvideo.mind.cluster import Node, NodeState


class Scheduler:
    """Nodes n0, n1, …; notes what it was asked to do."""

    def __init__(self, count: int = 4) -> None:
        self.states = {f"n{i}": NodeState.UP for i in range(count)}
        self.done: list[tuple[str, ...]] = []

    def nodes(self) -> list[Node]:
        return [Node(name, state) for name, state in self.states.items()]

    def drain(self, node: str, reason: str) -> bool:
        self.done.append(("drain", node))
        return True

    def down(self, node: str, reason: str) -> bool:
        self.done.append(("down", node))
        return True

    def requeue(self, job: str, exclude: Sequence[str] = ()) -> bool:
        self.done.append(("requeue", job, *exclude))
        return True

    def resume(self, node: str) -> bool: ...
    def reboot(self, node: str, reason: str) -> bool: ...
    def move(self, node: str, partition: str) -> bool: ...
    def reachable(self, node: str) -> bool:
        return True
