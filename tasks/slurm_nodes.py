"""Nodes and jobs of Slurm in StepMind's hands: `stepvideo.mind.cluster.NodeManager` by scontrol.

What it takes out of service has a reason that begins with `MARK`; what has another one is an administrator's, unless it
is one that Slurm gives itself. Slurm has no compare-and-set: an administrator who drains a node in the few milliseconds
between the look at it and the change loses their reason, not the drain.
"""

from __future__ import annotations

import re
import socket
import subprocess
from collections.abc import Sequence

from stepvideo.errors import ConfigError
from stepvideo.mind.cluster import MARK, Node, NodeState, Unanswered
from tasks.slurm_hosts import hostnames

ANSWER_S = 10.0
CONNECT_S = 1.0
SLURMD_PORT = 6818
OWN_REASONS = (
    *("Not responding", "Node unexpectedly rebooted", "Kill task failed", "Prolog error", "Epilog error", "Low "),
    *("batch job complete failure", "Reboot timeout", "reboot timed out", "gres/", "Duplicate jobid", "Node not resp"),
)
"""Beginnings of the reasons that Slurm itself gives."""
TAKEN = {"DRAIN", "DRAINED", "DRAINING", "DOWN", "FAIL", "FAILING"}  # whatever else: rebooting, not responding
SILENT = ("Unable to contact", "Socket timed out", "Connection refused", "Zero Bytes", "Transport endpoint", "standby")
_FIELD = re.compile(r"(?:^|\s)([A-Z]\w*)=")


class SlurmNodes:
    """Needs the rights of Slurm's operators."""

    def nodes(self) -> list[Node]:
        """Raises Unanswered."""
        return [_node(row) for row in _rows("node")]

    def drain(self, node: str, reason: str) -> bool:
        if (now := self._at_hand(node)) is None:
            return False
        if not (now.ours and now.state == NodeState.DRAINED):  # else it would lose its first reason
            self._set(node, "drain", reason)
        return True

    def down(self, node: str, reason: str) -> bool:
        if self._at_hand(node) is None:
            return False
        self._set(node, "down", reason)
        return True

    def resume(self, node: str) -> bool:
        now = self._at_hand(node)
        if now is None or now.usable:
            return now is not None
        _ask("update", f"nodename={node}", "state=resume")
        return True

    def reboot(self, node: str, reason: str) -> bool:
        """Drained first: a drained node stays so over its reboot, and keeps the reason."""
        if not self.drain(node, reason):
            return False
        _ask("reboot", node)
        return True

    def move(self, node: str, partition: str) -> bool:
        if self._at_hand(node) is None:
            return False
        wanted = partition.split(",")
        members = {row["PartitionName"]: hostnames(row.get("Nodes", "")) for row in _rows("partition")}
        if unknown := set(wanted) - set(members):
            raise ConfigError(f"Slurm has no partition {', '.join(unknown)}; it has {', '.join(members)}")
        for name, nodes in members.items():
            if (node in nodes) != (name in wanted):
                changed = [n for n in nodes if n != node] + [node] * (name in wanted)
                _ask("update", f"partitionname={name}", f"nodes={','.join(changed)}")
        return True

    def reserve(self, name: str, nodes: Sequence[str], minutes: int) -> None:
        """Only operators' jobs run there for that long, for planned maintenance; running jobs go on.

        Raises:
            ConfigError: Slurm refuses, with its reason.
        """
        what = [
            "users=root",
            "starttime=now",
            f"duration={minutes}",
            f"nodes={','.join(nodes)}",
            "flags=maint,ignore_jobs",
        ]
        _ask("create", "reservation", f"reservationname={name}", *what)

    def release(self, name: str) -> None:
        _ask("delete", f"reservationname={name}")

    def reachable(self, node: str) -> bool:
        row = next(iter(_rows("node", node)), {})
        try:
            address = row["NodeAddr"], int(row.get("Port", SLURMD_PORT))
            socket.create_connection(address, CONNECT_S).close()
        except (KeyError, OSError):
            return False
        return True

    def requeue(self, job: str, exclude: Sequence[str] = ()) -> bool:
        """Slurm takes nodes to exclude of waiting jobs only, and has a requeued one wait for seconds at the least.

        It is not held meanwhile: nobody would release it if this process, or the controller, ended then.
        """
        try:
            before = next(iter(_rows("job", job)), {}).get("ExcNodeList", "")
            _ask("requeue", job)
        except ConfigError:  # it has ended
            return False
        if exclude:
            _ask("update", f"jobid={job}", f"excnodelist={','.join(sorted({*hostnames(before), *exclude}))}")
        return True

    def _at_hand(self, node: str) -> Node | None:
        """None: an administrator has it.

        Raises:
            ConfigError: no such node.
        """
        rows = _rows("node", node)
        found = _node(rows[0])
        return None if found.admin else found

    def _set(self, node: str, state: str, reason: str) -> None:
        _ask("update", f"nodename={node}", f"state={state}", f"reason={MARK} {reason}")


def _node(row: dict[str, str]) -> Node:
    flags = row.get("State", "").split("+")
    base = {flag.strip("*~#!%$@^-") for flag in flags}
    reason = re.sub(r" \[[^\]]*@[^\]]*\]$", "", row.get("Reason", ""))
    partitions = tuple(p for p in row.get("Partitions", "").split(",") if p)
    state = _state(base)
    held = bool(base & TAKEN) and bool(reason) and not reason.startswith((MARK, *OWN_REASONS))
    admin = held or bool(base & {"MAINT", "MAINTENANCE"})  # reserved by a person
    busy = bool(base & {"ALLOCATED", "MIXED", "COMPLETING"})
    return Node(row["NodeName"], state, reason, next(iter(partitions), ""), partitions, busy, admin)


def _state(flags: set[str]) -> NodeState:
    if flags & {"REBOOT_ISSUED", "REBOOT_REQUESTED", "REBOOT", "POWERING_UP", "BOOT"}:
        return NodeState.REBOOTING
    if "DOWN" in flags or "FAIL" in flags:
        return NodeState.DOWN
    if "NOT_RESPONDING" in flags:
        return NodeState.UNRESPONSIVE
    if flags & {"DRAIN", "DRAINED", "DRAINING", "FAILING"}:
        return NodeState.DRAINED
    return NodeState.UP if flags & {"IDLE", "ALLOCATED", "MIXED", "COMPLETING"} else NodeState.UNKNOWN


def _rows(what: str, name: str = "") -> list[dict[str, str]]:
    said = _ask("show", what, *([name] if name else []), "--oneliner")
    return [_fields(line) for line in said.splitlines() if "=" in line]


def _fields(line: str) -> dict[str, str]:
    """Key=value with spaces in values; "(null)" is none."""
    marks = list(_FIELD.finditer(line))
    ends = [m.start() for m in marks[1:]] + [len(line)]
    found = {m[1]: line[m.end() : end].strip() for m, end in zip(marks, ends)}
    return {k: v for k, v in found.items() if v not in ("(null)", "N/A", "None")}


def _ask(*command: str) -> str:
    """What scontrol says.

    Raises:
        Unanswered: nothing, in time.
        ConfigError: it refuses.
    """
    try:
        done = subprocess.run(["scontrol", *command], capture_output=True, text=True, timeout=ANSWER_S)
    except (OSError, subprocess.TimeoutExpired) as e:
        raise Unanswered(f"scontrol {command[0]}: {e}") from e
    if done.returncode == 0:
        return done.stdout
    said = (done.stderr or done.stdout).strip()
    if any(words in said for words in SILENT):
        raise Unanswered(said)
    raise ConfigError(f"Slurm refused scontrol {' '.join(command)}: {said}")
