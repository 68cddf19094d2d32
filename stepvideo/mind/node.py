"""What a node does for itself when its scheduler's health program calls: checks, and in its turn a stress test.

It only reports. Who is drained, rebooted or admitted is the keeper's decision, so that a broken check cannot drain the
nodes that it runs on.
"""

from __future__ import annotations

import subprocess
import sys
import time
import uuid
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

from stepvideo.mind.checks.host import Expected, Host
from stepvideo.mind.checks.result import Result
from stepvideo.mind.checks.run import Check, run
from stepvideo.mind.nodes import State, locked
from stepvideo.mind.settings import Folder
from stepvideo.mind.uniform import fingerprint

PRINT_EVERY_S = 3600.0


def check(checks: Sequence[Check], host: Host, expected: Expected) -> list[Result]:
    """Results, with the node's name in their commands."""
    if expected.timeout_s:
        checks = [replace(c, timeout_s=expected.timeout_s) for c in checks]
    return [replace(r, fix=r.fix.replace("$NODE", host.name)) for r in run(checks, host, expected)]


def report(folder: Folder, checks: Sequence[Check], host: Host) -> list[Result]:
    """Checks and writes down what they say, and now and then how the node is set up; starts the stress test of a node
    whose turn it is."""
    record = folder.book.get(host.name)
    since = record.since if record else None  # a report answers the state in which it began
    expected = Expected.of_json(folder.settings().expected, host.name)
    if (record and record.state == State.CHECKING) or folder.age("prints", host.name) > PRINT_EVERY_S:
        folder.write_report("prints", host.name, fingerprint(host))
    found = check(checks, host, expected)
    said = {"id": uuid.uuid4().hex, "time": time.time(), "since": since, "results": [asdict(r) for r in found]}
    folder.write_report("checks", host.name, said)
    if record and record.state == State.STRESSING and folder.report("stress", host.name).get("since") != since:
        _stress(folder.root, host.name, since or 0.0)
    return found


def stress_lock(root: Path, node: str) -> Path:
    """Held by the stress test of a node."""
    return root / "stress" / f".{node}.lock"


def _stress(root: Path, node: str, since: float) -> None:
    """In a process that outlives this one, unless one is at it already."""
    with locked(stress_lock(root, node), wait=False) as free:
        if not free:
            return
    command = [sys.executable, "-m", "stepvideo.mind.command", "stress", "--folder", str(root), "--node", node]
    log = root / "stress" / f"{node}.log"
    with log.open("a") as f:
        subprocess.Popen(
            [*command, "--since", repr(since)], stdin=subprocess.DEVNULL, stdout=f, stderr=f, start_new_session=True
        )
