"""CPU, memory, disks and network interfaces, by psutil."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import psutil

from stepvideo.mind.sensors.rate import Rate

NOT_WIRES = ("lo", "docker", "veth", "br-", "virbr")


class Host:
    """`disks`: paths whose file systems must not fill up."""

    def __init__(self, disks: Sequence[str] = ("/", "/tmp")) -> None:
        self._disks = disks
        self._network = Rate()
        psutil.cpu_percent()  # the first answer is of no interval

    def read(self, now: float) -> dict[str, Any]:
        """{cpu: share, load, memory_free: share, disk_free: {path: share}, network: bytes/s or None}."""
        wires = psutil.net_io_counters(pernic=True)
        sent = sum(w.bytes_sent + w.bytes_recv for name, w in wires.items() if not name.startswith(NOT_WIRES))
        memory = psutil.virtual_memory()
        return {
            "cpu": psutil.cpu_percent() / 100,
            "load": psutil.getloadavg()[0],
            "memory_free": memory.available / memory.total,
            "disk_free": {path: 1 - psutil.disk_usage(path).percent / 100 for path in self._disks},
            "network": self._network(now, sent),
        }
