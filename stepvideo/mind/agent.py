"""The node agent: `python -m stepvideo.mind.agent FOLDER --every 1`. One a node, as a service, root for most of it.

Every second it replaces `agents/NODE.json` in StepMind's folder, which whoever watches jobs reads (`snapshot.py`), and
every ten it appends to `agents/NODE.jsonl`, which is kept to two files of 4 MiB. All nodes share the folder.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import socket
import sys
import threading
import time
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from stepvideo.mind.inject import INJECT, Injection
from stepvideo.mind.sensors.gpus import Gpus
from stepvideo.mind.sensors.host import Host
from stepvideo.mind.sensors.kernel import KernelLog
from stepvideo.mind.sensors.ports import Ports
from stepvideo.mind.sensors.processes import Processes
from stepvideo.mind.settings import VARIABLE
from stepvideo.mind.snapshot import AGENTS

LOG_EVERY_S = 10.0
LOG_BYTES = 4 << 20


class Sensor(Protocol):
    def read(self, now: float) -> dict[str, Any]:
        """Its part of the snapshot; `now`: s, monotonic."""
        ...


class Agent:
    """`write` takes a reading and publishes it."""

    def __init__(
        self, folder: Path, node: str, sensors: Sequence[Sensor] | None = None, injection: Injection | None = None
    ) -> None:
        home = folder / AGENTS
        self._path, self._log = home / f"{node}.json", home / f"{node}.jsonl"
        self.kernel = KernelLog()
        self._sensors = [Host(), Processes(node), Gpus(), Ports(), self.kernel] if sensors is None else list(sensors)
        self._injection = injection
        self._about = {"node": node, "agent": uuid.uuid4().hex[:8], "pid": os.getpid()}
        self._seq = 0
        self._cost = (time.monotonic(), time.process_time())
        self._logged = float("-inf")
        home.mkdir(parents=True, exist_ok=True)

    def read(self) -> dict[str, Any]:
        """A snapshot; `cost` is this agent's share of a core since it started."""
        now, self._seq = time.monotonic(), self._seq + 1
        snapshot: dict[str, Any] = {**self._about, "seq": self._seq, "time": time.time()}
        for sensor in self._sensors:
            try:
                snapshot |= sensor.read(now)
            except (
                Exception
            ) as e:  # what the others see is known all the same: an agent that ends looks like a dead node
                snapshot.setdefault("blind", []).append(f"{type(sensor).__name__}: {e!r}")
        for xid in snapshot.pop("xids", ()):
            self.kernel.add(now, f"NVRM: Xid (NVML): {xid}")
        since, spent = self._cost
        snapshot["cost"] = round((time.process_time() - spent) / max(now - since, 1e-9), 5)
        return snapshot

    def write(self) -> None:
        snapshot = self.read()
        if self._injection:
            snapshot = self._injection.apply(snapshot)
        if snapshot.get("mute"):
            return
        line = json.dumps(snapshot)
        tmp = self._path.with_suffix(".tmp")
        with contextlib.suppress(OSError):  # a full or absent file system: the next one may get through
            tmp.write_text(line)
            os.replace(tmp, self._path)
            if (now := time.monotonic()) - self._logged >= LOG_EVERY_S:
                self._logged = now
                self._append(line)

    def _append(self, line: str) -> None:
        if self._log.exists() and self._log.stat().st_size > LOG_BYTES:
            os.replace(self._log, self._log.with_suffix(".jsonl.1"))
        with self._log.open("a") as f:
            f.write(line + "\n")

    def run(self, every_s: float, stop: threading.Event) -> None:
        """Until `stop`; a reading that took long, or a machine that slept, is not made up for."""
        while not stop.is_set():
            started = time.monotonic()
            self.write()
            stop.wait(max(every_s - (time.monotonic() - started), 0.05))


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m stepvideo.mind.agent", description="Watches a node.")
    folder = os.environ.get(VARIABLE)
    text = f"StepMind's, on a file system that all nodes share (${VARIABLE})"
    parser.add_argument("folder", type=Path, nargs=None if folder is None else "?", default=folder, help=text)
    parser.add_argument("--node", default=os.environ.get("SLURMD_NODENAME") or socket.gethostname().partition(".")[0])
    parser.add_argument("--every", type=float, default=1.0, metavar="S")
    parser.add_argument("--inject", action="store_true", help=f"for tests: make up what the file {INJECT} says")
    args = parser.parse_args(argv)
    if args.every <= 0:
        parser.error(f"--every is {args.every}; give more than 0 seconds")
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    Agent(Path(args.folder), args.node, injection=Injection.asked() if args.inject else None).run(args.every, stop)
    return 0


if __name__ == "__main__":
    sys.exit(main())
