"""What StepMind needs of whoever runs the cluster: states of nodes, and a hand on nodes and jobs.

The library knows this protocol only; Slurm's side of it is `tasks/slurm_nodes.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

MARK = "stepvideo:"  # begins the reason of whatever StepMind took out of service; other reasons are an administrator's


class NodeState(StrEnum):
    """What matters of a node's state, whatever the scheduler calls it."""

    UP = "up"  # idle or in use
    DRAINED = "drained"  # takes no new job; those on it may still run
    DOWN = "down"
    UNRESPONSIVE = "unresponsive"  # the scheduler has not heard of it for a while and has not given it up yet
    REBOOTING = "rebooting"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class Node:
    """A node as the scheduler sees it.

    Attributes:
        reason: why it is out of service; empty if it is not, or nobody said.
        partition: the first one that it is in; partitions: all of them.
        busy: jobs run on it, or just ended.
        admin: a person took it out of service; what the scheduler itself put down or drained is nobody's.
    """

    name: str
    state: NodeState
    reason: str = ""
    partition: str = ""
    partitions: tuple[str, ...] = ()
    busy: bool = False
    admin: bool = False

    @property
    def ours(self) -> bool:
        """StepMind took it out of service, and may put it back; what an administrator drained, it never does."""
        return self.reason.startswith(MARK)

    @property
    def usable(self) -> bool:
        return self.state == NodeState.UP


class NodeManager(Protocol):
    """Every call returns at once or raises `Unanswered`; reasons are given without `MARK`, which is put before them."""

    def nodes(self) -> list[Node]: ...

    def drain(self, node: str, reason: str) -> bool:
        """No new job goes there. False: an administrator has it out of service already, and it is left as it is."""
        ...

    def down(self, node: str, reason: str) -> bool:
        """Gone: the scheduler takes its jobs elsewhere at once. False as for `drain`."""
        ...

    def resume(self, node: str) -> bool:
        """Back in service. False: it is not ours to put back."""
        ...

    def reboot(self, node: str, reason: str) -> bool:
        """As soon as no job is there, then out of service until it is resumed. False as for `drain`."""
        ...

    def move(self, node: str, partition: str) -> bool:
        """Into that partition, or those that commas separate, and out of all others. False as for `drain`."""
        ...

    def reachable(self, node: str) -> bool:
        """Whether the scheduler's daemon on the node takes connections now."""
        ...

    def requeue(self, job: str, exclude: Sequence[str] = ()) -> bool:
        """Start a running job anew, not on these nodes. False: it does not run (any more)."""
        ...


class Unanswered(Exception):
    """The scheduler does not answer; nothing is known, and nothing was done as far as is known."""
